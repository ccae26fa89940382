"""Runs, sweeps and refusals of the program."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lightning_dynprune.app.models import LeNet300100
from lightning_dynprune.app.sweeps import read_jobs
from lightning_dynprune.deploy.compact import load_compact
from tests.app.program import SHORT, dynprune, dynprune_afresh, stopped, words

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Return the folder, the output and the errors of one run."""
    folder = tmp_path_factory.mktemp("run")
    done = dynprune_afresh(*SHORT, "hydra.run.dir=run", "logger=csv", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout, done.stderr


def test_a_run_prints_its_tables_and_none_of_lightnings_remarks(run):
    _, output, errors = run
    assert output.startswith("Dense and pruned")
    assert "INFO" not in errors
    assert "HYDRA" not in output + errors


def test_a_run_ends_with_its_table(run):
    table = words(run[1])
    for text in (
        "test accuracy",
        "sparsity asked for",
        "sparsity reached",
        "90.00 %",
        "50,610",
        "network.fc1.weight",
        "19,200",
        "model.safetensors, results.json",
        "dynprune task=deploy checkpoint=",
    ):
        assert text in table


def test_results_hold_the_figures_and_what_they_came_from(run):
    found = json.loads((run[0] / "results.json").read_text())
    assert found["parameters"] == 50_610
    assert found["target_sparsity"] == 0.9
    assert found["sparsity"] == 0.9
    assert found["nonzero"] == 50_610 - 45_180
    assert found["compression"] == 50_610 / 5_430
    assert set(found["layers"]) == {"network.fc1.weight", "network.fc2.weight", "network.fc3.weight"}
    pruned = sum(found["layers"][name] * found["connections"][name] for name in found["layers"])
    assert round(pruned) == 45_180
    assert 0.1 < found["accuracy"] <= 1
    assert 0.1 < found["dense_accuracy"] <= 1
    assert found["seed"] == 0
    assert {"data", "dense", "pruned", "test"} == set(found["seconds"])
    assert {"python", "torch", "lightning"} <= set(found["versions"])
    assert found["config"]["trainer"]["max_epochs"] == 3


def test_weights_load_into_the_plain_network_and_are_as_sparse_as_said(run):
    weights = load_file(run[0] / "model.safetensors")
    network = LeNet300100(shape=[1, 8, 8], classes=10)
    network.load_state_dict(weights, strict=True)
    assert sum(int((p == 0).sum()) for p in network.parameters()) == 45_180
    packed = load_compact(run[0] / "compact.safetensors")
    assert list(packed) == list(network.state_dict())
    assert all(torch.equal(packed[name], weight) for name, weight in weights.items())
    sizes = json.loads((run[0] / "results.json").read_text())["bytes"]
    assert sizes["compact"] == (run[0] / "compact.safetensors").stat().st_size < 0.2 * sizes["dense"]


def test_a_run_leaves_checkpoint_picture_and_log(run):
    checkpoint = torch.load(run[0] / "last.ckpt", weights_only=True)
    assert "DynamicPruning" in checkpoint["callbacks"]
    assert (run[0] / "sparsity.png").read_bytes().startswith(PNG)
    (log,) = (run[0] / "logs").glob("pruned/**/metrics.csv")
    assert "dynprune/val_sparsity" in log.read_text().splitlines()[0]


def test_the_same_seed_gives_the_same_run_and_another_one_another(run, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        dynprune(*SHORT, f"hydra.run.dir={name}", f"seed={seed}", "dense=false", folder=tmp_path)
    expected = (run[0] / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == expected
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != expected
    assert json.loads((tmp_path / "other" / "results.json").read_text())["dense_accuracy"] is None


def test_a_sweep_names_the_job_that_failed_and_goes_on(tmp_path):
    sweep = dynprune("-m", *SHORT, "sparsity=0.5,1.5,0.9", "hydra.sweep.dir=sweep", folder=tmp_path)
    assert sweep.returncode == 1
    folder = tmp_path / "sweep"
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["sparsity"] for row in rows] == ["0.5", "1.5", "0.9"]
    assert [row["reached_sparsity"] for row in rows] == ["0.5", "", "0.9"]
    assert "1.5 is not accepted; give a number in [0, 1)" in rows[1]["error"]
    assert "1.5 is not accepted" in words(sweep.stdout)
    assert (folder / "pareto.png").read_bytes().startswith(PNG)
    assert len(list((folder / "dense").glob("*.json"))) == 1  # one dense baseline for all jobs
    assert rows[0]["dense_accuracy"] == rows[2]["dense_accuracy"]


def test_a_strategy_of_the_users_own_runs_from_a_folder_of_settings(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from lightning_dynprune.strategies import Strategy\n\n"
        "@dataclass(frozen=True)\n"
        "class Largest(Strategy):\n"
        "    def score(self, target):\n"
        "        return -target.weight.abs()\n"
    )
    (tmp_path / "conf" / "strategy").mkdir(parents=True)
    (tmp_path / "conf" / "strategy" / "largest.yaml").write_text("_target_: mine.Largest\n")
    settings = (*SHORT, "strategy=largest", "dense=false", "hydra.run.dir=run")
    done = dynprune("--config-dir", "conf", *settings, folder=tmp_path, path=[str(tmp_path)])
    assert done.returncode == 0, done.stderr
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert sum(int((w == 0).sum()) for w in weights.values()) == 45_180


def test_the_weights_say_what_they_are_of(run):
    from safetensors import safe_open

    with safe_open(run[0] / "model.safetensors", framework="pt") as file:
        about = file.metadata()
    assert about["format"] == "pt"
    assert about["sparsity"] == "0.900000"
    assert json.loads(about["model"])["_target_"].endswith("LeNet300100")


def test_files_have_the_mode_of_the_users_umask(run):
    modes = {path.stat().st_mode & 0o777 for path in run[0].iterdir() if path.is_file()}
    mask = os.umask(0o022)
    os.umask(mask)
    assert modes == {0o666 & ~mask}


def test_the_pattern_n_m_brings_its_sparsity_along(tmp_path):
    done = dynprune(*SHORT, "pattern=n_m", "dense=false", "hydra.run.dir=run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text())["sparsity"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sparsity=1.2"], "sparsity=1.2 is not accepted; give a number in [0, 1)"),
        (["sparsity=much"], "sparsity='much' is not a number"),
        (["strategy=nope"], "strategy=nope is unknown; known: fisher, magnitude, movement"),
        (["schedule.end=100000"], "lies after training, which ends at 30 steps"),
        (["targets.include='nope.*'"], "'nope.*' matches no parameter"),
        (["+trainer.max_steps=10"], "trainer.max_steps=10 is not accepted"),
        (["checkpoint.every_n_steps=0"], "checkpoint.every_n_steps=0 is not accepted"),
        (["data.holdout=5000"], "data.holdout=5000 is not accepted; give 1 to 1436"),
        (["objective=speed"], "objective='speed' is unknown; known: val_accuracy, accuracy"),
        (["data=mnist", "data_dir=nowhere"], "train-images-idx3-ubyte.gz is missing"),
        (["hydra.run.dir=occupied"], "the folder holds another run. Continue it by resume="),
        (["hydra.run.dir=file/run"], "the output folder file/run cannot be written"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_work_is_refused_in_words_and_trains_nothing(arguments, message, tmp_path):
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "last.ckpt").write_bytes(b"precious")
    (tmp_path / "file").write_text("in the way")
    refused = dynprune(*SHORT, *arguments, folder=tmp_path)
    assert refused.returncode != 0
    assert message in words(refused.stderr + refused.stdout)
    assert not list(tmp_path.glob("outputs/*/*/*.ckpt"))
    assert (tmp_path / "occupied" / "last.ckpt").read_bytes() == b"precious"


def test_a_job_of_a_sweep_that_was_killed_is_named_and_can_be_resumed_on_its_own(tmp_path):
    sweep = (*SHORT, "sparsity=0.5,0.9", "hydra.sweep.dir=sweep", "dense=false")
    killed = stopped("pruned", "on_train_batch_end", 15, "-m", *sweep, folder=tmp_path)
    assert killed.returncode == -9
    job = tmp_path / "sweep" / "0"
    assert [row.error for row in read_jobs(tmp_path / "sweep")] == [
        "ended without results",
        "was not started",
    ]
    assert dynprune("resume=sweep/0", folder=tmp_path).returncode == 0
    assert json.loads((job / "results.json").read_text())["sparsity"] == 0.5
    assert [row.state for row in read_jobs(tmp_path / "sweep", ended=False)] == ["finished", "not started"]
