"""Sweeps whose jobs run in other processes: joblib's, and submitit's local executor."""

from __future__ import annotations

import csv
import json
import signal
import time
from pathlib import Path

import pytest

from lightning_dynprune.app.sweeps import read_jobs
from tests.app.program import TIMEOUT, dynprune, dynprune_afresh, results, started, words

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra sweep is not installed")
SETTINGS = ("trainer.max_epochs=4", "data.batch_size=128", "checkpoint.every_n_steps=2", "logger=none")
SWEEP = ("-m", *SETTINGS, "sparsity=0.5,0.8", "seed=0,1", "hydra.sweep.dir=sweep")
TWO_AT_ONCE = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def summary(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep" / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def wait_for_a_save(sweep: Path) -> None:
    """Wait until a job of the sweep has written a checkpoint after this was called."""
    began, ends = time.time_ns(), time.monotonic() + TIMEOUT
    while not any(path.stat().st_mtime_ns > began for path in sweep.glob("*/last.ckpt")):
        assert time.monotonic() < ends, f"no job saved in {TIMEOUT} s"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder and the output of a sweep by Hydra's own launcher that nothing stopped."""
    folder = tmp_path_factory.mktemp("unbroken")
    done = dynprune(*SWEEP, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_table_pools_the_seeds_and_the_summary_has_a_column_for_each_setting(unbroken):
    folder, output = unbroken
    assert "mean and spread of 2 seeds" in words(output)
    printed = [line.split() for line in output.splitlines() if "sparsity=0." in line and "#" not in line]
    assert [line[0] for line in printed] == ["0,1", "2,3"]
    rows = summary(folder)
    assert [(row["sparsity"], row["seed"]) for row in rows] == [("0.5", "0"), ("0.5", "1"), ("0.8", "0"), ("0.8", "1")]
    assert {row["trainer.max_epochs"] for row in rows} == {"4"}
    assert [row["reached_sparsity"] for row in rows] == ["0.5", "0.5", "0.8", "0.8"]


def test_jobs_of_one_seed_share_one_dense_control(unbroken):
    controls = list((unbroken[0] / "sweep" / "dense").glob("*.json"))
    assert len(controls) == 2  # one for each seed
    rows = summary(unbroken[0])
    assert (
        rows[0]["dense_accuracy"]
        == rows[2]["dense_accuracy"]
        == str(json.loads((unbroken[0] / "sweep" / "0" / "dense.json").read_text())["accuracy"])
    )


def test_a_sweep_by_joblib_that_is_stopped_in_three_ways_ends_in_the_summary_of_an_unbroken_one(unbroken, tmp_path):
    sweep = tmp_path / "sweep"
    for signum, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        running = started(*SWEEP, *TWO_AT_ONCE, folder=tmp_path)
        try:
            wait_for_a_save(sweep)
            halted = running.send(signum)
        finally:
            running.send(signal.SIGKILL)
        assert halted.returncode == status, halted.stderr
        assert any(row.is_left for row in read_jobs(sweep, ended=False))
    again = dynprune(*SWEEP, *TWO_AT_ONCE, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "4 of 4 jobs done" in words(again.stdout)
    assert summary(tmp_path) == summary(unbroken[0])
    for job in "0123":
        assert results(sweep / job) == results(unbroken[0] / "sweep" / job)


def test_jobs_of_submitits_local_executor_are_reported_from_their_folders(unbroken, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra sweep is not installed")
    one = ("-m", *SETTINGS, "sparsity=0.5", "seed=0", "hydra.sweep.dir=sweep")
    done = dynprune_afresh(*one, "hydra/launcher=submitit_local", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path) == summary(unbroken[0])[:1]


def test_a_second_sweep_in_a_folder_where_one_runs_is_refused_and_leaves_it_alone(tmp_path):
    running = started(*SWEEP, "dense=false", folder=tmp_path)
    try:
        running.wait_for(tmp_path / "sweep" / "0" / "last.ckpt")
        second = dynprune(*SWEEP, "dense=false", folder=tmp_path)
    finally:
        running.send(signal.SIGKILL)
    assert second.returncode == 1
    assert "another sweep runs in this folder at this moment" in second.stderr
    assert not list(tmp_path.rglob("error.json"))
