"""The table that the program prints at the end of a sweep, and the same data as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from lightning_dynprune.base import write_atomically
from lightning_dynprune.report.text import duration, percent, plain_text, titled_table

FIGURES = (
    "accuracy",
    "dense_accuracy",
    "val_accuracy",
    "target_sparsity",
    "sparsity",
    "nonzero",
    "parameters",
    "compression",
    "seed",
)
_HEADINGS = ("target", "sparsity", "accuracy", "dense", "factor")
_PER_INPUT_HEADINGS = ("pruned", "dense", "accuracy", "adapted", "compute")
# Of per-input pruning; empty without it.
PER_INPUT_FIGURES = ("accuracy", "compute_mean", "compute_p5", "compute_p95", "rank_correlation")


@dataclass(frozen=True)
class SweepRow:
    """One job of a sweep.

    Args:
        job: name of the job's folder in the sweep's folder.
        overrides: the job's overrides.
        results: the content of its ``results.json``; ``None`` for a failed job.
        error: why it failed; ``None`` for a job that has finished or is not done.
        started: whether the job has been started; its results and its error are ``None`` while it is not done.
    """

    job: str
    overrides: Sequence[str]
    results: Mapping[str, Any] | None = None
    error: str | None = None
    started: bool = True

    @property
    def is_left(self) -> bool:
        """Whether the job has neither finished nor failed."""
        return self.results is None and self.error is None

    @property
    def state(self) -> str:
        """``finished``, ``failed: ...`` with the error, ``not finished`` or ``not started``."""
        if self.results is not None:
            return "finished"
        if self.error is not None:
            return f"failed: {self.error}"
        return "not finished" if self.started else "not started"


def sweep_table(rows: Sequence[SweepRow], folder: Path) -> RenderableType:
    """Return the table of a sweep with one row per job; the row of a failed job gives the error.

    Where a job prunes per input, target and factor make room for the accuracy and the mean compute of that.

    Args:
        rows: the jobs.
        folder: the sweep's folder, printed under the table.
    """
    common = set.intersection(*(set(row.overrides) for row in rows)) if rows else set()
    shared = [text for text in rows[0].overrides if text in common] if rows else []
    title = " ".join(["Sweep", *shared]) if len(rows) > 1 else "Sweep"
    table = titled_table(title)
    table.add_column("job", justify="right")
    table.add_column("settings", overflow="fold", min_width=20)
    has_per_input = any(per_input_figures(row) for row in rows)
    headings = _PER_INPUT_HEADINGS if has_per_input else _HEADINGS
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        settings = [text for text in row.overrides if len(rows) == 1 or text not in common]
        if row.results is None:
            state = plain_text(row.state, style="red" if row.error else "dim")
            table.add_row(
                plain_text(row.job), Text("\n").join([*map(plain_text, settings), state]), *["-"] * len(headings)
            )
            continue
        cells = _per_input_cells(row) if has_per_input else _cells(row.results)
        table.add_row(plain_text(row.job), Text("\n").join(map(plain_text, settings)), *cells)
    return Group(table, plain_text(f"  {folder}", style="dim"))


def _cells(found: Mapping[str, Any]) -> list[str]:
    shares = [percent(found[name]) for name in ("target_sparsity", "sparsity", "accuracy", "dense_accuracy")]
    return [*shares, f"{found['compression']:.1f}x"]


def _per_input_cells(row: SweepRow) -> list[str]:
    """Return the sparsity and the accuracies of a job, and the mean share of the multiply-adds of an input."""
    assert row.results is not None
    own = per_input_figures(row)
    shares = [row.results[name] for name in ("sparsity", "dense_accuracy", "accuracy")]
    return [percent(share) for share in (*shares, own.get("accuracy"), own.get("compute_mean"))]


def per_input_figures(row: SweepRow) -> Mapping[str, Any]:
    """Return the figures of a job's per-input pruning; empty without it."""
    adaptive = None if row.results is None else row.results.get("adaptive")
    return {} if adaptive is None else adaptive["figures"]


def progress_line(
    row: SweepRow | None, rows: Sequence[SweepRow], done: int, seconds_a_job: float | None
) -> RenderableType:
    """Return one line about the job that has just ended, with the progress of its sweep.

    Args:
        row: the job; None if it left nothing.
        rows: all jobs of the sweep.
        done: number of jobs that have finished or failed.
        seconds_a_job: wall-clock time between the ends of two jobs; None if not known yet.
    """
    left = len(rows) - done
    time = f", about {duration(left * seconds_a_job)} left" if left and seconds_a_job is not None else ""
    counted = f"{done} of {len(rows)} jobs done{time}"
    if row is None or row.results is None:
        return plain_text(f"  {counted}", style="dim")
    found = row.results
    figures = f"{percent(found['sparsity'])} pruned, {percent(found['val_accuracy'])} right"
    return plain_text(f"  {counted}; {row.job}: {figures}", style="dim")


def write_summary(rows: Sequence[SweepRow], path: Path) -> None:
    """Write a CSV file with one line per job: its overrides, its figures, and its error if it failed."""

    def write(scratch: Path) -> None:
        with scratch.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            per_input = [f"per_input_{name}" for name in PER_INPUT_FIGURES]
            writer.writerow(["job", "overrides", *FIGURES, *per_input, "error"])
            for row in rows:
                figures = row.results or {}
                values = [figures.get(name) for name in FIGURES]
                values += [per_input_figures(row).get(name) for name in PER_INPUT_FIGURES]
                texts = [
                    _escape_formula(text)
                    for text in (
                        row.job,
                        " ".join(row.overrides),
                        "" if row.results else row.state.removeprefix("failed: "),
                    )
                ]
                writer.writerow([*texts[:2], *values, texts[2]])

    write_atomically(path, write)


def _escape_formula(text: str) -> str:
    """Return the text of a cell, quoted where a spreadsheet would run it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
