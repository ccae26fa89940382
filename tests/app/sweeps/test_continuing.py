"""A sweep never writes to its finished runs, and the same command continues it after any stop."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from lightning_dynprune.app.runs import ResumeError
from lightning_dynprune.app.sweeps import SweepRecord, continue_sweep
from tests.app.program import dynprune, stopped, words

# 1,200 training digits in batches of 128: 10 steps an epoch. Job 0 takes 20 steps and job 1 30.
SETTINGS = ("data.batch_size=128", "checkpoint.every_n_steps=4", "logger=none", "dense=false")
SWEEP = ("-m", *SETTINGS, "trainer.max_epochs=2,3")
FOLDER = "hydra.sweep.dir=sweep"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def summary(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which a sweep that nothing stopped stands in ``sweep``."""
    folder = tmp_path_factory.mktemp("unbroken")
    done = dynprune(*SWEEP, FOLDER, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def finished(unbroken, tmp_path) -> Path:
    """Return a copy of that folder."""
    return Path(shutil.copytree(unbroken, tmp_path / "copy"))


def test_the_same_command_twice_leaves_every_byte_as_it_was(unbroken):
    before = contents(unbroken), times(unbroken / "sweep" / "0"), times(unbroken / "sweep" / "1")
    again = dynprune(*SWEEP, FOLDER, folder=unbroken)
    assert again.returncode == 0, again.stderr
    assert (contents(unbroken), times(unbroken / "sweep" / "0"), times(unbroken / "sweep" / "1")) == before
    assert "2 of 2 jobs done" in words(again.stdout)


def test_a_finished_run_is_not_resumed_and_not_written_to(finished):
    before = contents(finished), times(finished)
    again = dynprune("resume=sweep/0", folder=finished)
    assert again.returncode == 0, again.stderr
    assert "the run has finished already" in again.stdout
    assert (contents(finished), times(finished)) == before


@pytest.mark.parametrize(
    ("by", "status", "command"),
    [
        ("SIGINT", 130, (*SWEEP, FOLDER)),
        ("SIGTERM", 143, (*SWEEP, FOLDER)),
        ("SIGKILL", -9, (*SWEEP, FOLDER)),
        ("SIGKILL", -9, ("sweep.resume=sweep",)),
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGKILL", "SIGKILL, by its folder"],
)
def test_a_stopped_sweep_continues_to_the_same_end(by, status, command, unbroken, tmp_path):
    halted = stopped("pruned", "on_train_batch_end", 25, *SWEEP, FOLDER, folder=tmp_path, by=by)
    assert halted.returncode == status, halted.stderr
    sweep = tmp_path / "sweep"
    first = contents(sweep / "0")
    assert not (sweep / "1" / "results.json").exists()
    assert (sweep / "1" / "last.ckpt").exists()
    if by != "SIGKILL":
        assert "1 of 2 jobs are done, 1 are left (1)" in words(halted.stderr)
        assert f"sweep.resume={sweep}" in words(halted.stderr) or "sweep.resume=sweep" in words(halted.stderr)
        rows = summary(sweep)
        assert [bool(row["accuracy"]) for row in rows] == [True, False]
        assert rows[1]["error"] == "not finished"
    again = dynprune(*command, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert contents(sweep / "0") == first
    assert summary(sweep) == summary(unbroken / "sweep")
    for job in ("0", "1"):
        model = (sweep / job / "model.safetensors").read_bytes()
        assert model == (unbroken / "sweep" / job / "model.safetensors").read_bytes()


def test_without_a_folder_the_same_command_continues_its_unfinished_sweep_and_no_finished_one(tmp_path):
    command = ("-m", *SETTINGS, "trainer.max_epochs=1,2")
    assert stopped("pruned", "on_train_batch_end", 15, *command, folder=tmp_path).returncode == -9
    (folder,) = tmp_path.glob("multirun/*/*")
    continued = dynprune(*command, folder=tmp_path)
    assert continued.returncode == 0, continued.stderr
    assert "Continuing the unfinished sweep in multirun/" in continued.stderr
    assert list(tmp_path.glob("multirun/*/*")) == [folder]
    assert len(summary(folder)) == 2
    assert continue_sweep(["-m", "seed=1,2"]) == ["-m", "seed=1,2"]


def test_another_sweep_in_the_folder_is_refused_with_the_command_that_is_there(finished):
    before = contents(finished)
    refused = dynprune("-m", *SETTINGS, "trainer.max_epochs=3,4", FOLDER, folder=finished)
    assert refused.returncode == 1
    assert "holds another sweep: dynprune -m" in words(refused.stderr)
    assert "trainer.max_epochs=2,3" in words(refused.stderr)
    assert contents(finished) == before


def test_a_sweep_of_another_version_is_refused_with_both_versions(finished):
    record = finished / "sweep" / "sweep.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "version": "9.0.0"}))
    refused = dynprune(*SWEEP, FOLDER, folder=finished)
    assert refused.returncode == 1
    assert "was begun with version 9.0.0 of lightning-dynprune and this is" in words(refused.stderr)


def test_a_finished_run_of_other_settings_is_named_and_not_overwritten(finished):
    results = finished / "sweep" / "0" / "results.json"
    content = json.loads(results.read_text())
    content["config"]["sparsity"], content["fingerprint"] = 0.7, "other"
    results.write_text(json.dumps(content))
    before = contents(finished / "sweep" / "0")
    done = dynprune(*SWEEP, FOLDER, folder=finished)
    assert done.returncode == 1
    assert contents(finished / "sweep" / "0") == before
    first, second = summary(finished / "sweep")
    assert "holds a finished run, which is not overwritten" in first["error"]
    assert "sparsity: 0.7 -> 0.9" in first["error"]
    assert second["error"] == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"overrides": ["+x._target_=os.system"], "config_dirs": [], "jobs": [], "version": "1"}', "may run code"),
        ('{"overrides": ["model=lenet5,../../x"], "config_dirs": [], "jobs": [], "version": "1"}', "may run code"),
        ('{"overrides": ["model=glob(*)"], "config_dirs": [], "jobs": [], "version": "1"}', "may run code"),
        ('{"overrides": [], "config_dirs": ["/x"], "jobs": [], "version": "1"}', "if you trust that folder"),
        ('{"overrides": [], "config_dirs": [], "jobs": [1], "version": "1"}', "jobs is no list of lists"),
        ('{"overrides": [1], "config_dirs": [], "jobs": null, "version": "1"}', "no lists of texts"),
        ('{"overrides": [], "config_dirs": [], "jobs": null}', "version is no text"),
        ("[]", "is damaged"),
        (None, "there is no sweep.json"),
    ],
)
def test_a_record_from_elsewhere_is_checked_before_it_is_used(content, message, tmp_path):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ResumeError, match=message):
        continue_sweep([f"sweep.resume={tmp_path}"])


def test_the_arguments_of_a_resumed_sweep_are_those_of_the_record_then_its_folder(tmp_path):
    SweepRecord(["sparsity=0.5,0.9", "seed=range(0,3)", "a='b,c'"], [], None).write(tmp_path)
    arguments = continue_sweep([f"sweep.resume={tmp_path}", "progress=false"])
    assert arguments == [
        "-m", "sparsity=0.5,0.9", "seed=range(0,3)", "a='b,c'", "progress=false", f"hydra.sweep.dir='{tmp_path}'",
    ]  # fmt: skip
