"""Runs of the program with ``adaptive=early_exit``: their figures and files, and a kill while heads are fitted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lightning_dynprune.adaptive import Adapted, attach, read_exits
from lightning_dynprune.app.models import ConvNet
from tests.app.program import SHORT, dynprune, results, stopped, words

ADAPTIVE = (
    *SHORT,
    "model=convnet",
    "model.width=4",
    "dense=false",
    "pattern=channel",
    "sparsity=0.5",
    "slim=end",
    "adaptive=early_exit",
    "adaptive.after=[relu1]",
    "adaptive.budget=0.7",
    "adaptive.hidden=8",
    "adaptive.epochs=3",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("adaptive")
    done = dynprune(*ADAPTIVE, "hydra.run.dir=run", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_a_run_shows_what_its_inputs_cost(run):
    folder, output = run
    for text in ("Per input, early_exit", "relu1", "all, per input", "rank correlation of loss and compute"):
        assert text in words(output)
    found = results(folder)["adaptive"]
    figures = found["figures"]
    assert found["paths"] == ["relu1", "end"]
    assert figures["share/relu1"] + figures["share/end"] == pytest.approx(1)
    assert figures["dense_accuracy"] == pytest.approx(results(folder)["accuracy"])
    assert figures["compute_mean"] == pytest.approx(0.7, rel=0.1)
    assert (folder / "per_input.png").read_bytes()[:4] == b"\x89PNG"


def test_the_plain_network_and_its_exits_are_two_files(run):
    weights, exits = (load_file(run[0] / name) for name in ("model.safetensors", "adaptive.safetensors"))
    assert not any("adaptive" in name for name in weights)
    assert all(name.startswith("adaptive.") for name in exits)
    assert results(run[0])["adaptive"]["bytes"] == (run[0] / "adaptive.safetensors").stat().st_size
    network = ConvNet([1, 8, 8], 10, width=4).eval()
    attach(network, exits)
    assert "relu1" in Adapted(network).module.summary


def test_a_run_is_deployed_beside_its_dense_form(run):
    settings = ("seconds=0.05", "batches=[1,4]", "rivals=false", "formats=[onnx]")
    output = f"output={run[0].parent / 'deploy.json'}"
    done = dynprune("task=deploy", f"checkpoint={run[0]}", *settings, output, folder=run[0].parent)
    assert done.returncode == 0, done.stderr
    assert "Per input over the fastest dense form" in words(done.stdout)
    assert "Per input over the whole network, both in ONNX Runtime" in words(done.stdout)
    found = json.loads((run[0].parent / "deploy.json").read_text())["adaptive"]
    assert set(found["speeds"]) == {"1", "4"}
    assert found["speeds"]["1"]["adaptive"]["p95"] > 0
    # Where it was measured slower it runs dense.
    accuracies = [results(run[0])["adaptive"]["figures"][name] for name in ("accuracy", "dense_accuracy")]
    for form in (found, found["onnx"]):
        assert form["accuracy"] == pytest.approx(accuracies[not form["speeds"]["4"]["is_adaptive"]], abs=1e-6)
    exported = read_exits(run[0] / "exports" / "exits")
    assert exported.speeds[4].is_adaptive == found["onnx"]["speeds"]["4"]["is_adaptive"]


def test_a_run_that_is_killed_while_heads_are_fitted_resumes_to_the_same_end(run, tmp_path):
    steps = results(run[0])["steps"]
    ended = stopped("pruned", "on_fit_end", steps, *ADAPTIVE, "hydra.run.dir=run", folder=tmp_path)
    assert ended.returncode == -9, ended.stderr
    done = dynprune(f"resume={tmp_path / 'run'}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    expected, found = results(run[0]), results(tmp_path / "run")
    assert found == expected
    for name in ("model.safetensors", "adaptive.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (run[0] / name).read_bytes()


OTHERS = {
    "prefix_width": (
        "model=convnet",
        "model.width=8",
        "adaptive=prefix_width",
        "adaptive.widths=[0.5]",
        "adaptive.budget=0.9",
    ),
    "channel_gate": ("model=convnet", "model.width=16", "adaptive=channel_gate", "adaptive.density=0.5"),
    "activation_threshold": ("adaptive=activation_threshold", "adaptive.density=0.7"),
}


@pytest.mark.parametrize("method", OTHERS)
def test_a_run_that_is_killed_while_another_method_is_fitted_resumes_to_the_same_end(method, tmp_path):
    fitted = ("adaptive.epochs=1",) if method != "activation_threshold" else ()
    settings = (*SHORT, "dense=false", "sparsity=0.5", "strategy=magnitude", *OTHERS[method], *fitted)
    done = dynprune(*settings, "hydra.run.dir=whole", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = results(tmp_path / "whole")["steps"]
    ended = stopped("pruned", "on_fit_end", steps, *settings, "hydra.run.dir=run", folder=tmp_path)
    assert ended.returncode == -9, ended.stderr
    done = dynprune(f"resume={tmp_path / 'run'}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "adaptive.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("adaptive.after=[relu9]", "after='relu9' matches no module"),
        ("adaptive.budget=1.5", "budget=1.5"),
        ("adaptive.budget=0.001", "budget=0.001 is out of reach"),
        ("adaptive=early_exitt", "adaptive=early_exitt is unknown; did you mean early_exit?"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line_before_any_training(settings, message, tmp_path):
    given = [text for text in ADAPTIVE if text.partition("=")[0] != settings.partition("=")[0]]
    done = dynprune(*given, settings, "hydra.run.dir=run", folder=tmp_path)
    assert done.returncode == 1
    assert message in words(done.stderr)
    assert not (tmp_path / "run" / "last.ckpt").exists()
