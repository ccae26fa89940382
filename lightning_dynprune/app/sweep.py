"""The report at the end of a sweep: one table, ``summary.csv`` and ``pareto.png`` of all jobs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from lightning_dynprune.app.runs import read_failure, read_results
from lightning_dynprune.report import SweepRow, draw_pareto, sweep_table, write_summary


class SweepReport(Callback):
    """Hydra callback that reports a sweep from the files of its jobs, with any launcher.

    The process exits with status 1 if a job failed.
    """

    def __init__(self) -> None:
        self._began = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Store the start time, which separates the jobs of this sweep from older ones in the same folder."""
        self._began = time.time()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table and write both files to the sweep's folder."""
        folder = Path(config.hydra.sweep.dir)
        rows = read_jobs(folder, since=self._began)
        Console().print(sweep_table(rows, folder))
        try:
            write_summary(rows, folder / "summary.csv")
            draw_pareto(rows, folder / "pareto.png")
        except OSError as error:
            # Hydra turns an Exception of a callback into a warning.
            raise SystemExit(f"dynprune: {error.strerror}") from None
        if any(row.error for row in rows):
            raise SystemExit(1)


def read_jobs(folder: Path, since: float = 0.0) -> list[SweepRow]:
    """Return one row for each job that was started in a sweep's folder.

    Args:
        folder: the sweep's folder.
        since: time in seconds since the epoch; jobs that started earlier are skipped.
    """
    # Hydra writes this file when a job starts, so killed jobs are found too.
    started = [path for path in folder.glob("**/.hydra/overrides.yaml") if path.stat().st_mtime >= since - 1]
    rows = [_row(path.parent.parent, folder) for path in started]
    return sorted(rows, key=lambda row: (not row.job.isdecimal(), int(row.job) if row.job.isdecimal() else 0, row.job))


def _row(job: Path, sweep: Path) -> SweepRow:
    name = str(job.relative_to(sweep))
    try:
        if (job / "error.json").exists():
            failure = read_failure(job / "error.json")
            return SweepRow(name, failure["overrides"], error=failure["error"])
        if not (job / "results.json").exists():
            return SweepRow(name, [], error="ended without results")
        results = read_results(job / "results.json")
    except (ValueError, OSError) as error:
        return SweepRow(name, [], error=str(error))
    return SweepRow(name, results["overrides"], results=results)
