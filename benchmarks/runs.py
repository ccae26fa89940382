"""Many trainings one after another: each is recorded once it ends, and goes on where it stopped.

A benchmark lists its runs; this file trains those whose results are not in its JSON yet. A run of the program
``dynprune`` that was killed continues from its checkpoint; any other starts again. Ctrl-C saves first.
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
from dataclasses import dataclass
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

    from lightning_dynprune.app.runs import check_unchanged, find_checkpoint, read_run
    from lightning_dynprune.app.tasks.dense_baseline import get_dense_baseline

    cfg, place = composed(settings, folder)
    if place.resuming:
        check_unchanged(read_run(find_checkpoint(place.path))["config"], place.config_text)
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

    from lightning_dynprune.app.main import conf_dir
    from lightning_dynprune.app.runs import PHASES, RunFolder

    overrides = [f"{key}={as_text(value)}" for key, value in (QUIET | dict(settings)).items()]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides=overrides)
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    place = RunFolder(folder, overrides, {str(key): value for key, value in config.items()})
    resuming = any(place.checkpoint(phase).exists() for phase in PHASES)
    return cfg, RunFolder(place.path, place.overrides, place.config, resuming=resuming)


def as_text(value: object) -> str:
    """Return a value as Hydra's command line reads it.

    Example:
        >>> [as_text(value) for value in (None, True, 0.9, [3, 5], "erk")]
        ['null', 'true', '0.9', '[3, 5]', 'erk']
    """
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        name: its key in the results.
        settings: all that it depends on, plain values; a result under other settings does not count as its own.
        train: trains by the settings in a folder, and returns the figures to record.
    """

    name: str
    settings: Mapping[str, Any]
    train: Train = pruned

    def folder(self, work: Path) -> Path:
        """Return the scratch folder: another one for other settings."""
        key = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]
        return work / f"{re.sub(r'[^0-9A-Za-z.]+', '-', self.name).strip('-')}-{key}"


class Results:
    """The records of finished runs, one line each in a JSON file.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Record]:
        """Return the records by the name of their run."""
        if not self.path.exists():
            return {}
        records: dict[str, Record] = json.loads(self.path.read_text(encoding="utf-8"))["runs"]
        return records

    def of(self, runs: Sequence[Run]) -> dict[str, Record]:
        """Return the records of those runs that are finished under the very settings they have now."""
        records = self.read()
        return {
            run.name: records[run.name]
            for run in runs
            if run.name in records and records[run.name]["settings"] == dict(run.settings)
        }

    def add(self, run: Run, record: Record) -> None:
        """Add or replace one run's record; the file is read again first, for another process may have added to it."""
        records = self.read() | {run.name: {**record, "settings": dict(run.settings)}}
        lines = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(kept, allow_nan=False)}" for name, kept in records.items()
        )
        environment = json.dumps(timing.environment())
        text = f'{{\n "environment": {environment},\n "runs": {{\n{lines}\n }}\n}}\n'
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, lambda scratch: _write(scratch, text))


def train_all(runs: Sequence[Run], results: Results, work: Path, workers: int) -> list[str]:
    """Train the runs that have no result yet, and record each as soon as it ends.

    Args:
        runs: what to train.
        results: where the records go.
        work: scratch folders go here; a finished run's is removed.
        workers: processes, one thread each.

    Returns:
        The names of the runs that failed; why is printed.

    Raises:
        KeyboardInterrupt: the user stopped it; what was training has been saved.
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
            # No more than the workers can take: what waits in the pool's own queue could not be called back.
            while waiting and len(training) < workers and not stopping:
                run = waiting.pop(0)
                training[pool.submit(_train, run, run.folder(work))] = run
            try:
                ended, _ = wait(training, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                stopping = True
                print("Stopping: what is training saves itself first.", flush=True)
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
    """Leave Ctrl-C to the run, and end if the parent is killed: nobody would record what is trained."""
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
            # A Trainer and its module refer to each other, and Python looks for such circles too seldom here.
            gc.collect()


def _shown(record: Record) -> str:
    return f"{record['test_error']:.2%} test error, {record['seconds']:.0f} s"


def draw_beside(path: Path, records: Mapping[str, Record], draw: Callable[[Mapping[str, Record], Path], None]) -> None:
    """Draw the records, where there are any, into a figure beside the results, and say where it is.

    Args:
        path: of the results.
        records: by name of their run.
        draw: takes the records and the figure's path.
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
    """Train what the command line asks for, and show the results.

    Args:
        question: the benchmark's docstring.
        runs_of: returns the runs; called with True for a short trial of every kind of run.
        out: where the results lie.
        show: prints the table from the records by name; called with the results' path, so that a figure may lie
            beside it.
    """
    parser = argparse.ArgumentParser(description=question, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--only", metavar="GLOB", action="append", help="train the runs whose name matches; may repeat")
    parser.add_argument("--list", action="store_true", help="name the runs and which are finished; train nothing")
    parser.add_argument("--table", action="store_true", help="show the results there are; train nothing")
    parser.add_argument("--short", action="store_true", help="a trial of every kind of run; results go under --work")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dynprune-benchmarks")
    parser.add_argument("--out", type=Path, help=f"results, JSON (default: {out.name} beside the others)")
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
            print("Stopped; the same command goes on.")
            raise SystemExit(INTERRUPTED) from None
    show(results.of(runs), results.path)
    if failed:
        raise SystemExit(f"{len(failed)} runs failed: {', '.join(failed)}")
