"""Run the trainings of a benchmark, record each result once it is finished, and resume after an interruption.

A benchmark lists its runs; this module trains those that have no result in its JSON file yet. A run of the program
``dynprune`` that was killed resumes from its checkpoint; any other run starts again. Ctrl-C saves checkpoints first.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timing

from lightning_dynprune.base import write_atomically

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lightning_dynprune.app.interrupt import StopRequest
    from lightning_dynprune.app.runs import RunFolder

Record = dict[str, Any]
Train = Callable[[Mapping[str, Any], Path, "StopRequest"], Record]
QUIET = {"logger": "none", "progress": False}
INTERRUPTED = 130


def pruned(settings: Mapping[str, Any], folder: Path, stop: StopRequest) -> Record:
    """Train a pruned network as the program ``dynprune`` does, and return its figures."""
    from lightning_dynprune.app.tasks import run_training

    cfg, place = composed(settings, folder)
    if not place.results.exists():
        run_training(cfg, place, stop)
    found = json.loads(place.results.read_text(encoding="utf-8"))
    same = ("sparsity", "nonzero", "parameters", "compression", "layers", "steps", "seed")
    return {
        "test_error": 1 - found["accuracy"],
        "val_error": 1 - found["val_accuracy"],
        **{name: found[name] for name in same},
        "epochs": cfg.trainer.max_epochs,
        "seconds": found["seconds"]["pruned"],
    }


def dense(settings: Mapping[str, Any], folder: Path, stop: StopRequest) -> Record:
    """Train a network without pruning, as the program trains its dense baseline, and return its figures."""
    import torch
    from hydra.utils import instantiate

    from lightning_dynprune.app.tasks.dense_baseline import get_dense_baseline

    cfg, place = composed(settings, folder)
    if place.resuming:
        place.validate_checkpoints()
    torch.set_num_threads(cfg.threads)
    found = get_dense_baseline(cfg, instantiate(cfg.data), place, stop)
    size = sum(parameter.numel() for parameter in instantiate(cfg.model).parameters())
    return {
        "test_error": 1 - found["accuracy"],
        "val_error": 1 - found["val_accuracy"],
        "sparsity": 0.0,
        "nonzero": size,
        "parameters": size,
        "compression": 1.0,
        "seed": cfg.seed,
        "epochs": cfg.trainer.max_epochs,
        "seconds": found["seconds"],
    }


def composed(settings: Mapping[str, Any], folder: Path) -> tuple[DictConfig, RunFolder]:
    """Return the program's configuration under these overrides, and the folder to run in.

    Args:
        settings: Hydra's overrides, key -> value.
        folder: if it holds a checkpoint, the run continues from it.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from lightning_dynprune.app.runs import RunFolder
    from lightning_dynprune.app.runs.recorded_settings import recorded_settings
    from lightning_dynprune.app.settings_folder import conf_dir

    overrides = [f"{key}={as_text(value)}" for key, value in (QUIET | dict(settings)).items()]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides=overrides)
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    resolved = {str(key): value for key, value in config.items()}
    place = RunFolder(folder, overrides, resolved, recorded_settings(cfg))
    return cfg, replace(place, resuming=place.has_checkpoint)


def as_text(value: object) -> str:
    """Return a value as Hydra's command line reads it.

    Example:
        >>> [as_text(value) for value in (None, True, 0.9, [3, 5], "erk")]
        ['null', 'true', '0.9', '[3, 5]', 'erk']
    """
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Run:
    """One training of a benchmark.

    Args:
        name: its key in the results.
        settings: plain values, all that the result depends on; a result with other settings is not reused.
        train: called with the settings and a folder; returns the figures to record.
    """

    name: str
    settings: Mapping[str, Any]
    train: Train = pruned

    def folder(self, work: Path) -> Path:
        """Return the scratch folder, which depends on the settings."""
        key = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]
        return work / f"{re.sub(r'[^0-9A-Za-z.]+', '-', self.name).strip('-')}-{key}"


class Results:
    """The records of finished runs, one line each in a JSON file.

    Args:
        path: the JSON file; it may be missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Record]:
        """Return the records by run name."""
        if not self.path.exists():
            return {}
        records: dict[str, Record] = json.loads(self.path.read_text(encoding="utf-8"))["runs"]
        return records

    def of(self, runs: Sequence[Run]) -> dict[str, Record]:
        """Return the records of the runs that are finished with exactly their current settings."""
        records = self.read()
        return {
            run.name: records[run.name]
            for run in runs
            if run.name in records and records[run.name]["settings"] == dict(run.settings)
        }

    def add(self, run: Run, record: Record) -> None:
        """Add or replace one run's record; the file is read again first: another process may have changed it."""
        records = self.read() | {run.name: {**record, "settings": dict(run.settings)}}
        lines = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(kept, allow_nan=False)}" for name, kept in records.items()
        )
        environment = json.dumps(timing.environment())
        text = f'{{\n "environment": {environment},\n "runs": {{\n{lines}\n }}\n}}\n'
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, lambda scratch: _write(scratch, text))


def train_all(runs: Sequence[Run], results: Results, work: Path, workers: int) -> list[str]:
    """Train the runs without a result, and record each as soon as it ends.

    Args:
        runs: the runs to train.
        results: receives the records.
        work: holds a scratch folder for each run, removed when the run is finished.
        workers: number of processes, one thread each.

    Returns:
        The names of the runs that failed; their errors are printed.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C; runs in training have saved a checkpoint.
    """
    finished = results.of(runs)
    waiting = [run for run in runs if run.name not in finished]
    done, count, failed = len(runs) - len(waiting), len(runs), []
    os.environ["OMP_NUM_THREADS"] = "1"
    stopping = False
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker
    ) as pool:
        training: dict[Future[Record], Run] = {}
        while training or (waiting and not stopping):
            # No more than the workers can take: runs in the pool's own queue could not be cancelled.
            while waiting and len(training) < workers and not stopping:
                run = waiting.pop(0)
                training[pool.submit(_train, run, run.folder(work))] = run
            try:
                ended, _ = wait(training, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                stopping = True
                print("Stopping: runs in training save a checkpoint first.", flush=True)
                continue
            for future in ended:
                run = training.pop(future)
                error = future.exception()
                if error is None:
                    done += 1
                    results.add(run, future.result())
                    shutil.rmtree(run.folder(work), ignore_errors=True)
                    print(f"[{done}/{count}] {run.name}: {_shown(future.result())}", flush=True)
                elif not isinstance(error, Exception):
                    stopping = True  # the run was stopped, and saved itself
                else:
                    failed.append(run.name)
                    print(f"FAILED {run.name}: {error}\n  see {run.folder(work)}", flush=True)
    if stopping:
        raise KeyboardInterrupt
    return failed


def _begin_worker() -> None:
    """Set up a worker process: it ends with its parent, and leaves Ctrl-C to the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _train(run: Run, folder: Path) -> Record:
    from lightning_dynprune.app.interrupt import stop_on_interrupt
    from lightning_dynprune.app.log_filters import silence_lightning

    silence_lightning()
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "output.txt").open("a", encoding="utf-8") as output,
        redirect_stdout(output),
        redirect_stderr(output),
        stop_on_interrupt() as stop,
    ):
        try:
            return run.train(run.settings, folder, stop)
        except Exception:
            traceback.print_exc()
            raise
        finally:
            # A Trainer and its module refer to each other, and Python collects such cycles too seldom here.
            gc.collect()


def _shown(record: Record) -> str:
    return f"{record['test_error']:.2%} test error, {record['seconds']:.0f} s"


def draw_beside(path: Path, records: Mapping[str, Record], draw: Callable[[Mapping[str, Record], Path], None]) -> None:
    """Draw the records, if any, into a figure beside the results, and print its path.

    Args:
        path: the path of the results.
        records: the records by run name.
        draw: called with the records and the figure's path.
    """
    if records:
        figure = path.with_suffix(".png")
        draw(records, figure)
        print(f"drawn: {figure}")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def command_line(
    question: str,
    runs_of: Callable[[bool], Sequence[Run]],
    out: Path,
    show: Callable[[Mapping[str, Record], Path], None],
) -> None:
    """Run a benchmark from the command line: train the chosen runs and show the results.

    Args:
        question: the benchmark's docstring.
        runs_of: returns the runs; called with True for a short trial of every kind of run.
        out: the default path of the results.
        show: called with the records by run name and the results' path; prints the tables and may draw a figure.
    """
    parser = argparse.ArgumentParser(description=question, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="number of processes, one thread each (default: 2)")
    parser.add_argument(
        "--only", metavar="GLOB", action="append", help="only runs whose name matches; can be given several times"
    )
    parser.add_argument("--list", action="store_true", help="list the runs, mark the finished ones, train nothing")
    parser.add_argument("--table", action="store_true", help="show the recorded results, train nothing")
    parser.add_argument("--short", action="store_true", help="a short trial of every kind of run; results go to --work")
    default_work = Path(tempfile.gettempdir()) / "dynprune-benchmarks"
    parser.add_argument(
        "--work", type=Path, default=default_work, help="folder for checkpoints and other scratch files"
    )
    parser.add_argument("--out", type=Path, help=f"JSON file of the results (default: benchmarks/results/{out.name})")
    chosen = parser.parse_args()
    if chosen.workers < 1:
        parser.error(f"--workers {chosen.workers} is not accepted; give 1 or more")

    work = chosen.work.resolve() / out.stem
    results = Results(chosen.out or (work / "short.json" if chosen.short else out))
    runs = runs_of(chosen.short)
    wanted = [run for run in runs if not chosen.only or any(fnmatchcase(run.name, glob) for glob in chosen.only)]
    if not wanted:
        parser.error(f"--only {' '.join(chosen.only)} matches no run; --list names them")
    if chosen.list:
        finished = results.of(runs)
        for run in wanted:
            print(f"{'done' if run.name in finished else '    '}  {run.name}")
        print(f"{sum(run.name in finished for run in wanted)} of {len(wanted)} are finished")
        return
    failed = []
    if not chosen.table:
        try:
            failed = train_all(wanted, results, work, chosen.workers)
        except KeyboardInterrupt:
            print("Stopped; the same command resumes.")
            raise SystemExit(INTERRUPTED) from None
    show(results.of(runs), results.path)
    if failed:
        raise SystemExit(f"{len(failed)} runs failed: {', '.join(failed)}")
