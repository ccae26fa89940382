"""``dynprune task=deploy`` and ``task=preflight`` as a user starts them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lightning_dynprune.app.models import LeNet300100
from lightning_dynprune.app.runs import ResumeError, dense_file, expand_checkpoint, load_weights, weights_file
from lightning_dynprune.deploy.compact import save_compact
from lightning_dynprune.deploy.slimming import save, slim
from tests.app.program import SHORT, dynprune, dynprune_afresh, words

QUICK = ("seconds=0.2", "batches=[1,4]", "calibration=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a short run of the convnet, pruned by channels."""
    folder = tmp_path_factory.mktemp("trained")
    settings = ("model=convnet", "model.width=8", "pattern=channel", "sparsity=0.8", "hydra.run.dir=run")
    done = dynprune(*SHORT, *settings, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def measured(trained: Path) -> tuple[Path, str]:
    """Return the folder and the output of measuring that run, by its folder alone."""
    done = dynprune_afresh("task=deploy", "checkpoint=run", "formats=[pt2]", *QUICK, folder=trained.parent)
    assert done.returncode == 0, done.stderr
    return trained, done.stdout


def test_a_run_is_measured_by_its_folder_with_its_own_settings(measured):
    content = json.loads((measured[0] / "deploy.json").read_text())
    results = json.loads((measured[0] / "results.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert content["checkpoint"] == "model.safetensors"
    assert rows["pruned"]["parameters"] == results["parameters"]
    assert rows["pruned"]["nonzero"] == results["nonzero"]
    assert rows["pruned"]["accuracy"] == pytest.approx(results["accuracy"], abs=1e-6)
    assert rows["dense"]["accuracy"] == pytest.approx(results["dense_accuracy"], abs=1e-6)
    assert rows["slim"]["accuracy"] == pytest.approx(results["accuracy"], abs=2e-3)
    assert rows["slim"]["parameters"] < results["parameters"]
    assert rows["pruned, recalibrated"]["accuracy"] is not None
    assert set(rows["dense"]["latency"]) == {"1", "4"}


def test_the_tables_are_printed_and_nothing_else_is_left_behind(measured):
    folder, output = measured
    for text in ("Batch 1, cpu, 1 thread", "Batch 4", "Files on disk", "speed-up", "deploy.json"):
        assert text in words(output)
    assert "unused" not in output  # what exporters log of their own
    assert {"dense.pt2", "slim.pt2"} <= {path.name for path in (folder / "exports").iterdir()}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["run"]


def test_a_report_is_never_replaced(measured):
    before = (measured[0] / "deploy.json").read_bytes()
    again = dynprune("task=deploy", "checkpoint=run", *QUICK, folder=measured[0].parent)
    assert again.returncode != 0
    assert "deploy.json exists; give output=FILE, or move it away" in words(again.stderr)
    assert (measured[0] / "deploy.json").read_bytes() == before


def test_weights_alone_are_measured_under_settings_given_and_refused_under_others(trained, tmp_path):
    shutil.copy(trained / "model.safetensors", tmp_path)
    given = ("task=deploy", "checkpoint=model.safetensors", "rivals=false", *QUICK)
    refused = dynprune(*given, "model=lenet_300_100", folder=tmp_path)
    assert refused.returncode != 0
    assert "does not fit LeNet300100" in words(refused.stderr)
    assert "give the settings that the run had (model=..., data=...)" in words(refused.stderr)
    done = dynprune(*given, "model=convnet", "model.width=8", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "deploy.json").read_text())["rows"]}
    assert rows["dense"]["not_measured"]["accuracy"] == "dense is not trained"
    assert rows["pruned"]["accuracy"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "task=deploy needs a trained run: give checkpoint=FOLDER"),
        (("checkpoint=nowhere",), "checkpoint=nowhere: there is no such path"),
        (("checkpoint=.",), "the folder holds neither model.safetensors nor last.ckpt"),
        (("checkpoint=broken.ckpt",), "checkpoint=broken.ckpt: not a checkpoint that is safe to load"),
        (("checkpoint=broken.safetensors",), "it is no whole safetensors file"),
        (("-m", "checkpoint=."), "task=deploy runs once at a time; leave out -m"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_measured_is_refused_in_words(arguments, message, tmp_path):
    (tmp_path / "broken.ckpt").write_bytes(b"not a checkpoint")
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    refused = dynprune("task=deploy", *arguments, *QUICK, folder=tmp_path)
    assert refused.returncode != 0
    assert message in words(refused.stderr)


def stored(path: Path, overrides: list[str], config_dirs: tuple[str, ...] = ()) -> None:
    run = {"overrides": overrides, "config_dirs": list(config_dirs), "config": "{}"}
    torch.save({"state_dict": {}, "callbacks": {"LastCheckpoint": run}}, path)


def test_the_runs_own_overrides_come_first_and_what_is_given_takes_their_place(tmp_path):
    stored(
        tmp_path / "last.ckpt",
        ["model=convnet", "+model.extra=1", "data=mnist", "checkpoint.every_n_steps=9", "seed=3"],
    )
    given = ["task=deploy", f"checkpoint={tmp_path}", "data=digits", "model.extra=2"]
    assert expand_checkpoint(given) == ["model=convnet", "seed=3", *given]


@pytest.mark.parametrize("unsafe", ["model._target_=os.system", "model=../../evil", "lr_schedule=${oc.env:HOME}"])
def test_overrides_that_could_name_code_are_refused_unless_they_are_typed_again(unsafe, tmp_path):
    stored(tmp_path / "last.ckpt", [unsafe])
    given = ["task=deploy", f"checkpoint={tmp_path}"]
    with pytest.raises(ResumeError, match=r"dynprune task=deploy checkpoint=PATH"):
        expand_checkpoint(given)
    assert expand_checkpoint([*given, unsafe]) == [*given, unsafe]


def test_a_configuration_beside_a_checkpoint_is_never_read(tmp_path):
    stored(tmp_path / "last.ckpt", ["model=lenet_300_100"])
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("model:\n  _target_: os.abort\n")
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- model._target_=os.abort\n")
    (tmp_path / "model.yaml").write_text("_target_: os.abort\n")
    done = dynprune("task=deploy", f"checkpoint={tmp_path}", *QUICK, folder=tmp_path)
    assert done.returncode == 1
    assert "does not fit LeNet300100" in words(done.stderr)


def test_a_folder_of_settings_that_a_checkpoint_names_is_asked_for(tmp_path):
    stored(tmp_path / "last.ckpt", ["model=mine"], config_dirs=("/somewhere/conf",))
    given = ["task=deploy", f"checkpoint={tmp_path}"]
    with pytest.raises(ResumeError, match=r"dynprune --config-dir /somewhere/conf task=deploy checkpoint="):
        expand_checkpoint(given)
    assert expand_checkpoint(["--config-dir", "conf", *given]) == ["model=mine", "--config-dir", "conf", *given]


def test_other_tasks_and_bare_weights_leave_the_command_line_as_it_is(tmp_path):
    stored(tmp_path / "last.ckpt", ["model=convnet"])
    for given in (["sparsity=0.5"], [f"checkpoint={tmp_path}"], ["task=deploy", "checkpoint=x.safetensors"], ["-m"]):
        assert expand_checkpoint(given) == given
    with pytest.raises(ResumeError, match="task=preflight runs once at a time"):
        expand_checkpoint(["-m", "task=preflight"])


def network() -> LeNet300100:
    torch.manual_seed(0)
    return LeNet300100((1, 8, 8), 10)


@pytest.mark.parametrize("kind", ["compact", "slim"])
def test_weights_of_every_kind_of_file_are_read(kind, tmp_path):
    net, example = network(), torch.randn(3, 1, 8, 8)
    net.fc1.weight.data[7:] = 0
    net.fc1.bias.data[7:] = 0
    file = tmp_path / "model.safetensors"
    if kind == "compact":
        save_compact(net, file)
    else:
        slim(net.eval(), example)
        save(net, file)
    other = LeNet300100((1, 8, 8), 10).eval()
    load_weights(other, file)
    assert torch.equal(other(example), net.eval()(example))
    assert other.fc1.out_features == (300 if kind == "compact" else 7)


def test_dense_weights_are_found_in_the_run_or_its_sweep_and_nowhere_else(tmp_path):
    run = tmp_path / "sweep" / "0"
    run.mkdir(parents=True)
    assert dense_file(run) is None
    shared = tmp_path / "sweep" / "dense" / "0123456789abcdef.safetensors"
    shared.parent.mkdir()
    shared.touch()
    (tmp_path / "evil.safetensors").touch()
    for content, expected in (
        ('{"key": "0123456789abcdef"}', shared),
        ('{"key": "../../evil"}', None),
        ('{"key": "fedcba9876543210"}', None),
        ("[1]", None),
        ("{", None),
    ):
        (run / "dense.json").write_text(content)
        assert dense_file(run) == expected
    (run / "dense.safetensors").touch()
    assert dense_file(run) == run / "dense.safetensors"


def test_finished_weights_come_before_a_checkpoint(tmp_path):
    (tmp_path / "last.ckpt").touch()
    assert weights_file(tmp_path).name == "last.ckpt"
    (tmp_path / "model.safetensors").touch()
    assert weights_file(tmp_path).name == "model.safetensors"
    assert weights_file(tmp_path / "last.ckpt").name == "last.ckpt"


def test_preflight_prints_and_writes_what_patterns_would_give_and_trains_nothing(tmp_path):
    # The time is a deadline, which a run of a second cannot miss on a busy machine either.
    settings = ("seconds=60", "batches=[1]", "sparsities=[0.9]", "pattern=block", "pattern.rows=4", "hydra.run.dir=out")
    done = dynprune("task=preflight", *settings, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out" / "preflight.json").read_text())
    assert [cell["pattern"] for cell in content["cells"]] == ["channel", "block 4x1", "element", "n_m 2:4"]
    assert "rows=4 does not divide the 10 of fc3.weight" in content["verdicts"]["block 4x1"]
    assert "channel: batch 1:" in words(done.stdout)
    assert all(f"{pattern}: {verdict}" in words(done.stdout) for pattern, verdict in content["verdicts"].items())
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("results.json"))
