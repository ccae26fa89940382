"""The table that the program prints at the end of a sweep, and the same data as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from lightning_dynprune.base import write_atomically
from lightning_dynprune.report.sweep_rows import SEED, Pooled, SweepRow, axes, per_input_figures, pool_seeds
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
_SHARES = {"target": "target_sparsity", "sparsity": "sparsity", "accuracy": "accuracy", "dense": "dense_accuracy"}
_HEADINGS = (*_SHARES, "factor")
_ROUNDED = 5e-5  # half of the last digit of a share in percent
_PER_INPUT_HEADINGS = ("pruned", "dense", "accuracy", "adapted", "compute")
# Of per-input pruning; empty without it.
PER_INPUT_FIGURES = ("accuracy", "compute_mean", "compute_p5", "compute_p95", "rank_correlation")


def sweep_table(rows: Sequence[SweepRow], folder: Path) -> RenderableType:
    """Return the table of a sweep with one row for jobs that differ in the seed alone, and one for each other job.

    Figures of several seeds are given as mean and standard deviation. A job without results has a row of its own, with
    its error. Where a job prunes per input, target and factor make room for the accuracy and the mean compute of that.

    Args:
        rows: the jobs.
        folder: the sweep's folder, printed under the table.
    """
    common = set.intersection(*(set(row.overrides) for row in rows)) if rows else set()
    shared = [text for text in rows[0].overrides if text in common] if rows else []
    seeds = {row.settings.get(SEED) for row in rows}
    title = " ".join(["Sweep", *shared]) if len(rows) > 1 else "Sweep"
    table = titled_table(f"{title}, mean and spread of {len(seeds)} seeds" if len(seeds) > 1 else title)
    table.add_column("job", justify="right")
    table.add_column("settings", overflow="fold", min_width=16)
    has_per_input = any(per_input_figures(row) for row in rows)
    headings = _PER_INPUT_HEADINGS if has_per_input else _headings(rows)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for pooled in pool_seeds(rows):
        finished = pooled.finished
        if finished:
            settings = [text for text in finished[0].overrides if len(rows) == 1 or text not in common]
            if len(finished) > 1:
                settings = [text for text in settings if not text.startswith(f"{SEED}=")]
            cells = _per_input_cells(finished) if has_per_input else _cells(pooled, headings)
            names = _job_names([row.job for row in finished])
            table.add_row(plain_text(names), Text("\n").join(map(plain_text, settings)), *cells)
        for row in pooled.rows:
            if row.results is None:
                settings = [text for text in row.overrides if len(rows) == 1 or text not in common]
                state = plain_text(row.state, style="red" if row.error else "dim")
                lines = Text("\n").join([*map(plain_text, settings), state])
                table.add_row(plain_text(row.job), lines, *["-"] * len(headings))
    return Group(table, plain_text(f"  {folder}", style="dim"))


def _job_names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}" if len(names) > 2 else ",".join(names)


def _headings(rows: Sequence[SweepRow]) -> list[str]:
    """Return the columns of figures, without the target sparsity where every job has reached its own."""
    found = [row.results for row in rows if row.results is not None]
    if found and all(abs(results["target_sparsity"] - results["sparsity"]) < _ROUNDED for results in found):
        return [heading for heading in _HEADINGS if heading != "target"]
    return list(_HEADINGS)


def _cells(pooled: Pooled, headings: Sequence[str]) -> list[str]:
    factor = pooled.mean_and_spread("compression")
    cells = {"factor": "-" if factor is None else f"{factor[0]:.1f}x"}
    for heading, figure in _SHARES.items():
        cells[heading] = percent_and_spread(pooled.mean_and_spread(figure))
    return [cells[heading] for heading in headings]


def _per_input_cells(rows: Sequence[SweepRow]) -> list[str]:
    """Return the mean sparsity and accuracies of jobs, and the mean share of the multiply-adds of an input."""
    shares: list[list[float | None]] = []
    for row in rows:
        assert row.results is not None
        own = per_input_figures(row)
        figures = [row.results[name] for name in ("sparsity", "dense_accuracy", "accuracy")]
        shares.append([*figures, own.get("accuracy"), own.get("compute_mean")])
    columns = [[value for value in column if value is not None] for column in zip(*shares, strict=True)]
    return [percent(sum(column) / len(column) if column else None) for column in columns]


def percent_and_spread(figure: tuple[float, float] | None) -> str:
    """Return a mean in percent with its standard deviation, which is left out where it is zero.

    Example:
        >>> percent_and_spread((0.9766, 0.0012)), percent_and_spread((0.9, 0.0)), percent_and_spread(None)
        ('97.66±0.12 %', '90.00 %', '-')
    """
    if figure is None or figure[1] == 0:
        return percent(None if figure is None else figure[0])
    return f"{100 * figure[0]:.2f}±{100 * figure[1]:.2f} %"


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
    """Write a CSV file with one line per job: the settings of its overrides, its figures, and its error if it failed.

    Each setting has a column of its own name. The figures that would have the same names are ``reached_sparsity`` for
    the sparsity at the end, and none for the seed where the sweep gives it.
    """
    settings = axes(rows)
    figures = [name for name in FIGURES if name != SEED or SEED not in settings]
    names = ["reached_sparsity" if name == "sparsity" else name for name in figures]

    def write(scratch: Path) -> None:
        with scratch.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            per_input = [f"per_input_{name}" for name in PER_INPUT_FIGURES]
            writer.writerow(["job", *map(_escape_formula, settings), *names, *per_input, "error"])
            for row in rows:
                found = row.results or {}
                values = [found.get(name) for name in figures]
                values += [per_input_figures(row).get(name) for name in PER_INPUT_FIGURES]
                given = [_escape_formula(row.settings.get(key, "")) for key in settings]
                error = "" if row.results else row.state.removeprefix("failed: ")
                writer.writerow([_escape_formula(row.job), *given, *values, _escape_formula(error)])

    write_atomically(path, write)


def _escape_formula(text: str) -> str:
    """Return the text of a cell, quoted where a spreadsheet would run it as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
