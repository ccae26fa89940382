"""The program as it is typed: help, a sweep, targets, Ctrl-C from the terminal."""

from __future__ import annotations

import signal
from pathlib import Path

import torch
from safetensors.torch import load_file

from lightning_dynprune.app.sweeps import read_jobs
from tests.app.program import SHORT, dynprune, dynprune_afresh, started, stopped


def zeros(folder: Path) -> dict[str, int]:
    weights = load_file(folder / "model.safetensors")
    return {name: int((weight == 0).sum()) for name, weight in weights.items() if name.endswith("weight")}


def test_help_lists_the_groups_and_trains_nothing(tmp_path):
    done = dynprune_afresh("--help", folder=tmp_path)
    assert done.returncode == 0
    assert "strategy:   fisher, magnitude, movement, random, rigl, set" in done.stdout
    assert "sparsity: 0.9          # share of the connections to prune" in done.stdout
    assert not list(tmp_path.iterdir())


def test_ctrl_c_from_outside_leaves_a_checkpoint_that_continues(tmp_path):
    settings = ("trainer.max_epochs=400", "logger=none", "dense=false", "hydra.run.dir=run")
    running = started(*settings, folder=tmp_path)
    last = tmp_path / "run" / "last.ckpt"
    try:
        running.wait_for(last)
        interrupted = running.send(signal.SIGINT)
    finally:
        running.send(signal.SIGKILL)
    assert interrupted.returncode == 130, interrupted.stderr
    assert f"resume={tmp_path.resolve() / 'run'}" in interrupted.stderr
    checkpoint = torch.load(last, weights_only=True)
    assert 0 < checkpoint["global_step"] < 400 * 38
    # The checkpoint is whole: the program takes it up, to be stopped again two steps on.
    step = checkpoint["global_step"] + 2
    again = stopped("pruned", "on_train_batch_end", step, "resume=run", folder=tmp_path)
    assert again.returncode == -9, again.stderr


def test_a_sweep_without_failures_ends_with_status_0_and_a_row_a_job(tmp_path):
    sweep = (*SHORT, "trainer.max_epochs=1", "dense=false", "sparsity=0.5,0.8", "hydra.sweep.dir=sweep")
    done = dynprune("-m", *sweep, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read_jobs(tmp_path / "sweep")
    assert [(row.job, row.error, row.results["sparsity"]) for row in rows] == [("0", None, 0.5), ("1", None, 0.8)]
    assert sum(zeros(tmp_path / "sweep" / "0").values()) == 50_200 // 2


def test_each_target_may_have_a_sparsity_of_its_own_and_the_run_none(tmp_path):
    targets = "targets.include={*.fc1.weight:{sparsity:0.75},*.fc2.weight:{sparsity:0.5}}"
    done = dynprune(
        *SHORT, "sparsity=null", "threshold.scope=layer", targets, "dense=false", "hydra.run.dir=run", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert zeros(tmp_path / "run") == {"fc1.weight": 14_400, "fc2.weight": 15_000, "fc3.weight": 0}
