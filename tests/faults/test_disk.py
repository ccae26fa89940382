"""A disk that is full, and folders that cannot be written: the message names the file, and what was there stays."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from lightning_dynprune.base import remove_temporary_files, write_atomically, write_json
from lightning_dynprune.deploy.compact import save_compact, write_dense
from lightning_dynprune.deploy.exporting import ExportError, export
from lightning_dynprune.deploy.slimming import save
from lightning_dynprune.journal import Journal
from lightning_dynprune.report import SweepRow, draw_pareto, write_summary
from tests.app.program import dynprune, words
from tests.app.runs.test_resume import SETTINGS
from tests.journal.runs import mask_set

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of a process as Linux has them")
NET = nn.Linear(64, 64)
ROWS = [SweepRow(str(number), [f"sparsity=0.{number}"], error="x" * 200) for number in range(9)]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow past ``size`` bytes: the operating system ends a write there by an error, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def figure(path: Path) -> None:
    drawn = Figure()
    drawn.subplots().plot([1, 2, 3])
    write_atomically(path, drawn.savefig)


# What writes a file of more than 1,000 bytes.
WRITERS: dict[str, Callable[[Path], object]] = {
    "results.json": lambda path: write_json(path, {"history": list(range(1000))}),
    "compact.safetensors": lambda path: save_compact(NET, path),
    "model.safetensors": lambda path: write_dense(NET.state_dict(), path),
    "slim.safetensors": lambda path: save(NET, path),
    "summary.csv": lambda path: write_summary(ROWS, path),
    "pareto.png": lambda path: draw_pareto(ROWS, path),
    "journal.png": lambda path: Journal(mask_set(torch.ones(4))).plot(path),
    "figure.png": figure,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_write_for_which_there_is_no_room_says_so_and_leaves_the_old_file(name, tmp_path):
    path = tmp_path / name
    with room_for(1000), pytest.raises(OSError, match=rf"{name} could not be written \(File too large\), and no file"):
        WRITERS[name](path)
    assert not list(tmp_path.iterdir())
    WRITERS[name](path)
    before = path.read_bytes()
    with (
        room_for(1000),
        pytest.raises(OSError, match="the existing file is unchanged; free some disk space or choose a"),
    ):
        WRITERS[name](path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_an_export_for_which_there_is_no_room_leaves_the_old_file_and_no_other(suffix, tmp_path):
    path = tmp_path / f"model.{suffix}"
    export(NET, torch.zeros(2, 64), suffix, path)
    before = path.read_bytes()
    with (
        room_for(1000),
        pytest.raises(ExportError, match=rf"format='{suffix}': writing model.{suffix} failed: OSError: "),
    ):
        export(NET, torch.zeros(2, 64), suffix, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_is_none_is_named(name, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=rf"file/{name} could not be written \(Not a directory\), and no file"):
        WRITERS[name](tmp_path / "file" / name)
    assert (tmp_path / "file").read_text() == "in the way"


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    kept = ["last.ckpt", ".lock", ".hydra", ".gitignore", ".last.ckpt", ".notes.2026.txt"]
    left = [".last.4711-4712.ckpt", ".results.1-1.json"]
    for name in kept + left:
        (tmp_path / name).write_text(name)
    remove_temporary_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


LIMITED = """
import resource
from lightning_dynprune.app.callbacks import LastCheckpoint
from lightning_dynprune.app.main import run

# The disk fills up once the pruned training has saved twice.
save, saves = LastCheckpoint.save, []

def saved(self, trainer):
    saves.append(self.path.name)
    if saves.count("last.ckpt") == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
    save(self, trainer)

LastCheckpoint.save = saved
run()
"""


def test_a_run_whose_disk_fills_up_names_the_checkpoint_and_goes_on_from_it_once_there_is_room(tmp_path):
    (tmp_path / "limited.py").write_text(LIMITED)
    for name in ("whole", "full"):
        (tmp_path / name).mkdir()
    settings = (*SETTINGS, "dense=false", "strategy=magnitude", "hydra.run.dir=run")
    assert dynprune(*settings, folder=tmp_path / "whole").returncode == 0
    full = dynprune(*settings, folder=tmp_path / "full", program=tmp_path / "limited.py")
    assert full.returncode == 1
    assert "last.ckpt could not be written (File too large), and the existing file is unchanged" in words(full.stderr)
    assert not (tmp_path / "full" / "run" / "results.json").exists()
    assert dynprune("resume=run", folder=tmp_path / "full").returncode == 0
    ends = [(tmp_path / name / "run" / "model.safetensors").read_bytes() for name in ("whole", "full")]
    assert ends[0] == ends[1]


def test_a_job_of_a_sweep_whose_files_are_damaged_is_named_in_the_table(tmp_path):
    from lightning_dynprune.app.sweeps import read_jobs

    for name, text in {"0": '{"accuracy": 0.', "1": "[]", "2": json.dumps({"overrides": []})}.items():
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra" / "overrides.yaml").write_text("[]")
        (tmp_path / name / "results.json").write_text(text)
    errors = [row.error for row in read_jobs(tmp_path)]
    assert errors[0].startswith("results.json is damaged: ")
    assert errors[1].startswith("results.json is damaged: it holds a list")
    assert errors[2].startswith("results.json is damaged: ")


def test_a_damaged_record_of_the_dense_baseline_is_named_and_kept(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "dense.json").write_text('{"key": ')
    refused = dynprune(*SETTINGS, "hydra.run.dir=run", folder=tmp_path)
    assert refused.returncode == 1
    assert "dense.json is damaged" in words(refused.stderr)
    assert "move it away to have the dense baseline trained again" in words(refused.stderr)
    assert (tmp_path / "run" / "dense.json").read_text() == '{"key": '
