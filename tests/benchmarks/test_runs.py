"""Runs of a benchmark: recorded once, under the settings they were trained with."""

from __future__ import annotations

import json
import multiprocessing
import signal
import textwrap
from pathlib import Path

import pytest
import runs
from runs import Results, Run

from tests.app.program import dynprune

SHORT = {"trainer.max_epochs": 2, "checkpoint.every_n_steps": 5, "seed": 3}


def squared(settings, folder, stop):
    (folder / "scratch").write_text("x")
    with (folder.parent / "log.txt").open("a") as log:
        log.write(f"{settings['number']}\n")
    if settings["number"] < 0:
        raise ValueError(f"number={settings['number']} is negative")
    return {"test_error": settings["number"] ** 2, "seconds": 0.0}


def of_number(number: int) -> Run:
    return Run(f"run {number}", {"number": number}, squared)


def trained(work: Path) -> list[str]:
    return sorted((work / "log.txt").read_text().split())


@pytest.fixture
def workers(monkeypatch):
    """Let worker processes start from one that has imported what they need, which takes most of so short a run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_dynprune.app.tasks.train", "pytest"])
    monkeypatch.setattr(runs.multiprocessing, "get_context", lambda method: context)


@pytest.mark.usefixtures("workers")
def test_a_finished_run_is_recorded_and_not_trained_again(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    runs.train_all([of_number(2)], results, tmp_path, workers=1)
    runs.train_all([of_number(2), of_number(3)], results, tmp_path, workers=1)

    assert trained(tmp_path) == ["2", "3"]
    assert {name: found["test_error"] for name, found in results.read().items()} == {"run 2": 4, "run 3": 9}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "results.json"]


@pytest.mark.usefixtures("workers")
def test_a_failed_run_is_named_its_output_kept_and_the_others_recorded(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    failing = of_number(-1)

    assert runs.train_all([failing, of_number(2)], results, tmp_path, workers=2) == ["run -1"]
    assert list(results.read()) == ["run 2"]
    assert "number=-1 is negative" in (failing.folder(tmp_path) / "output.txt").read_text()


def test_a_record_counts_only_under_the_settings_it_was_made_with(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    results.add(Run("one", {"number": 1}), {"test_error": 0.5})

    assert results.of([Run("one", {"number": 1})]) == {"one": {"test_error": 0.5, "settings": {"number": 1}}}
    assert results.of([Run("one", {"number": 2})]) == {}


def test_a_record_is_added_to_what_another_process_has_written_since(tmp_path: Path) -> None:
    mine, theirs = Results(tmp_path / "results.json"), Results(tmp_path / "results.json")
    mine.add(Run("mine", {}), {"test_error": 0.1})
    theirs.add(Run("theirs", {}), {"test_error": 0.2})
    mine.add(Run("last", {}), {"test_error": 0.3})

    assert list(mine.read()) == ["mine", "theirs", "last"]


def test_other_settings_have_another_scratch_folder(tmp_path: Path) -> None:
    folders = {Run("a, 90 %", {"sparsity": share}).folder(tmp_path) for share in (0.9, 0.8)}

    assert len(folders) == 2
    assert all(folder.name.startswith("a-90-") for folder in folders)


def test_a_killed_run_goes_on_from_its_checkpoint_to_the_same_figures(tmp_path: Path) -> None:
    whole = runs.pruned(SHORT | {"dense": False}, made(tmp_path / "whole"), no_stop())
    folder = made(tmp_path / "killed")
    script = textwrap.dedent(
        """
        import json, os, signal, sys
        from pathlib import Path
        sys.path.append(sys.argv[1])
        import runs
        from lightning_dynprune.app.callbacks import History
        from lightning_dynprune.app.interrupt import StopRequest
        noted = History.on_train_batch_end
        def kill(self, trainer, *rest):
            noted(self, trainer, *rest)
            if trainer.global_step == 48:
                os.kill(os.getpid(), signal.SIGKILL)
        History.on_train_batch_end = kill
        runs.pruned(json.loads(sys.argv[3]), Path(sys.argv[2]), StopRequest())
        """
    )
    program = tmp_path / "killed.py"
    program.write_text(script)
    arguments = [str(Path(runs.__file__).parent), str(folder), json.dumps(SHORT | {"dense": False})]
    assert dynprune(*arguments, folder=tmp_path, program=program).returncode == -signal.SIGKILL
    assert (folder / "last.ckpt").exists()

    resumed = runs.pruned(SHORT | {"dense": False}, folder, no_stop())
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}
    assert resumed["sparsity"] == pytest.approx(0.9, abs=1e-4)


def test_a_dense_run_is_not_continued_under_other_settings(tmp_path: Path) -> None:
    folder = made(tmp_path / "dense")
    runs.dense(SHORT, folder, no_stop())
    (folder / "dense.json").unlink()  # as if it had been killed before its figures were written

    with pytest.raises(ValueError, match="seed: 3 -> 4"):
        runs.dense(SHORT | {"seed": 4}, folder, no_stop())


def test_the_dense_run_is_the_programs_own_control(tmp_path: Path) -> None:
    alone = runs.dense(SHORT, made(tmp_path / "alone"), no_stop())
    runs.pruned(SHORT | {"dense": True}, made(tmp_path / "both"), no_stop())
    both = json.loads((tmp_path / "both" / "results.json").read_text())

    assert alone["test_error"] == 1 - both["dense_accuracy"]
    assert alone["parameters"] == 64 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def no_stop():
    from lightning_dynprune.app.interrupt import StopRequest

    return StopRequest()
