"""Two runs in one folder: the second is refused while the first is alive, and takes nothing from it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from lightning_dynprune.app.runs import FolderInUse, lock_run_folder
from tests.app.program import dynprune, results, started, stopped, words
from tests.app.runs.test_resume import SETTINGS

HOLDER = """
import sys, time
from pathlib import Path
from lightning_dynprune.app.runs import lock_run_folder
with lock_run_folder(Path(sys.argv[1])):
    Path("held").touch()
    time.sleep(3600)
"""


@pytest.fixture
def holder(tmp_path):
    """Return another process that holds the folder ``run``."""
    (tmp_path / "run").mkdir()
    (tmp_path / "holder.py").write_text(HOLDER)
    process = started("run", folder=tmp_path, program=tmp_path / "holder.py")
    process.wait_for(tmp_path / "held")
    yield process
    process.send(signal.SIGKILL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_in_a_folder_that_another_writes_to_is_refused_and_leaves_no_trace(holder, tmp_path):
    (tmp_path / "run" / ".hydra").mkdir()
    (tmp_path / "run" / ".hydra" / "overrides.yaml").write_text("- of=another\n")
    before = contents(tmp_path / "run")
    refused = dynprune(*SETTINGS, "hydra.run.dir=run", folder=tmp_path)
    assert refused.returncode == 1
    assert f"another run writes to this folder at this moment (process {holder.pid})" in words(refused.stderr)
    assert "give another folder by hydra.run.dir" in words(refused.stderr)
    assert contents(tmp_path / "run") == before


def test_a_run_is_not_resumed_while_it_is_alive_and_is_once_it_is_dead(holder, tmp_path):
    settings = (*SETTINGS, "dense=false", "hydra.run.dir=other")
    stopped("pruned", "on_train_batch_end", 9, *settings, folder=tmp_path)
    (tmp_path / "run" / "last.ckpt").write_bytes((tmp_path / "other" / "last.ckpt").read_bytes())
    (tmp_path / "run" / ".last.4711-4711.ckpt").write_bytes(b"half of a check")
    before = contents(tmp_path / "run")
    refused = dynprune("resume=run", folder=tmp_path)
    assert refused.returncode == 1
    assert "another run writes to this folder" in words(refused.stderr)
    assert contents(tmp_path / "run") == before
    assert holder.send(signal.SIGKILL).returncode == -9
    assert dynprune("resume=run", folder=tmp_path).returncode == 0
    assert results(tmp_path / "run")["steps"] == 30
    assert not list((tmp_path / "run").glob(".last.*"))


def test_a_new_run_leaves_all_that_a_finished_or_dead_one_wrote(tmp_path):
    stopped("pruned", "on_train_batch_end", 9, *SETTINGS, "dense=false", "hydra.run.dir=run", folder=tmp_path)
    before = contents(tmp_path / "run")
    refused = dynprune(*SETTINGS, "sparsity=0.5", "dense=false", "hydra.run.dir=run", folder=tmp_path)
    assert refused.returncode == 1
    assert "the folder holds another run. Continue it by resume=" in words(refused.stderr)
    after = contents(tmp_path / "run")
    assert after.keys() == before.keys()
    # Not even the settings that Hydra writes down are those of the run that was refused.
    assert {name for name in after if after[name] != before[name]} <= {".lock"}


def test_a_job_that_failed_and_was_resumed_is_no_failure_any_more(tmp_path):
    settings = (*SETTINGS, "dense=false", "hydra.run.dir=run")
    stopped("pruned", "on_train_batch_end", 9, *settings, folder=tmp_path)
    (tmp_path / "run" / "error.json").write_text(json.dumps({"error": "OSError: disk full", "overrides": []}))
    assert dynprune("resume=run", folder=tmp_path).returncode == 0
    assert not (tmp_path / "run" / "error.json").exists()


def test_a_folder_is_free_again_once_a_run_has_ended(tmp_path):
    message = rf"another run writes .* \(process {os.getpid()}\)"
    for _ in range(2):
        with lock_run_folder(tmp_path), pytest.raises(FolderInUse, match=message), lock_run_folder(tmp_path):
            raise AssertionError("it was held twice")
    assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_of_several_processes_of_one_run_the_first_alone_holds_the_folder(tmp_path, monkeypatch):
    with lock_run_folder(tmp_path):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with lock_run_folder(tmp_path):
            assert (tmp_path / ".lock").exists()
