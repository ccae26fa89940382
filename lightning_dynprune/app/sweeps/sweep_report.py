"""The Hydra callback of a sweep: its record at the start, its progress, and its table, ``summary.csv`` and figure."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from lightning_dynprune.app.compat import jobs_of_sweep
from lightning_dynprune.app.runs import FolderInUse, check_no_links_of_sweep, lock_sweep_folder
from lightning_dynprune.app.sweeps.jobs import REFUSED, read_jobs
from lightning_dynprune.app.sweeps.sweep_record import NAME, SweepRecord
from lightning_dynprune.app.sweeps.sweeping_process import SweepingProcess
from lightning_dynprune.base import printable
from lightning_dynprune.report import SweepRow, progress_line, sweep_table, write_summary

# The sweeps that this process has begun and not reported yet: none or one, as a command is one sweep.
_running: list[Path] = []
_locks = ExitStack()  # holds the lock of that sweep's folder


class SweepReport(Callback):
    """Hydra callback that reports a sweep from the files of its jobs, with any launcher.

    The process exits with status 1 if a job failed.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Record the sweep's jobs in ``sweep.json``, or check that the folder holds this sweep and continue it."""
        folder = Path(config.hydra.sweep.dir)
        overrides = list(config.hydra.overrides.task)
        config_dirs = [s.path for s in config.hydra.runtime.config_sources if s.provider == "command-line"]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_no_links_of_sweep(folder)
            _locks.enter_context(lock_sweep_folder(folder))
            SweepRecord(overrides, config_dirs, jobs_of_sweep(config)).write(folder)
        except (OSError, ValueError, FolderInUse) as error:
            # Hydra turns an Exception of a callback into a warning.
            raise SystemExit(f"dynprune: {printable(str(error))}") from None
        shutil.rmtree(folder / REFUSED, ignore_errors=True)
        SweepingProcess(os.getpid(), time.time(), len(_finished(read_jobs(folder, ended=False)))).announce()
        _running[:] = [folder]

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Print how many jobs of the sweep are done and about how long the others take."""
        folder = Path(config.hydra.sweep.dir)
        sweep = SweepingProcess.found()
        if sweep is None or not (folder / NAME).is_file():
            return
        rows = read_jobs(folder, ended=False)
        done = sum(not row.is_left for row in rows)
        new = len(_finished(rows)) - sweep.done
        rate = (time.time() - sweep.began) / new if new > 0 else None
        number = str(config.hydra.job.num)
        current = [row for row in rows if row.job == number]
        line = progress_line(current[0] if current else None, rows, done, rate)
        Console(soft_wrap=True).print(line)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table and write both files to the sweep's folder."""
        folder = Path(config.hydra.sweep.dir)
        _running.clear()
        rows = read_jobs(folder)
        Console().print(sweep_table(rows, folder))
        _write_files(rows, folder)
        _locks.close()
        if any(row.error for row in rows):
            raise SystemExit(1)


def report_stopped_sweep() -> None:
    """Report the sweep that this process was running when it was stopped, if there is one.

    Prints which jobs are done and which are left, writes ``summary.csv`` and the figure of what there is, and prints
    the command that continues the sweep.
    """
    for folder in _running:
        rows = read_jobs(folder, ended=False)
        left = [row.job for row in rows if row.is_left]
        Console().print(sweep_table(rows, folder))
        _write_files(rows, folder)
        command = shlex.join(["dynprune", f"sweep.resume={folder}"])
        Console(stderr=True, soft_wrap=True).print(
            printable(
                f"Stopped: {len(rows) - len(left)} of {len(rows)} jobs are done, {len(left)} are left "
                f"({_ranges(left)}). To continue, give the same command again, or:\n\n    {command}\n"
            ),
            markup=False,
            highlight=False,
        )
    _running.clear()


def _write_files(rows: Sequence[SweepRow], folder: Path) -> None:
    from lightning_dynprune.report import draw_pareto  # imports matplotlib, which takes half a second

    try:
        write_summary(rows, folder / "summary.csv")
        draw_pareto(rows, folder / "pareto.png")
    except OSError as error:
        # Hydra turns an Exception of a callback into a warning.
        raise SystemExit(f"dynprune: {error.strerror}") from None


def _finished(rows: Sequence[SweepRow]) -> list[SweepRow]:
    return [row for row in rows if row.results is not None]


def _ranges(names: Sequence[str]) -> str:
    """Return the names of jobs, with successive numbers as ranges.

    Example:
        >>> _ranges(["2", "3", "4", "7"])
        '2-4, 7'
    """
    groups: list[list[str]] = []
    for name in names:
        if groups and name.isdecimal() and groups[-1][-1].isdecimal() and int(name) == int(groups[-1][-1]) + 1:
            groups[-1].append(name)
        else:
            groups.append([name])
    return ", ".join(group[0] if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups)
