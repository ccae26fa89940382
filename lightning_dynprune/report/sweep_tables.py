"""The table at the end of a sweep, and the same as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_dynprune.base import write_atomically
from lightning_dynprune.report.text import percent, shown

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


@dataclass(frozen=True)
class SweepRow:
    """One job of a sweep.

    Args:
        job: its folder's name in the sweep's folder.
        overrides: what sets it apart.
        results: the content of its ``results.json``; ``None`` for a failed job.
        error: why it failed; ``None`` for one that did not.
    """

    job: str
    overrides: Sequence[str]
    results: Mapping[str, Any] | None = None
    error: str | None = None


def sweep_table(rows: Sequence[SweepRow], folder: Path) -> RenderableType:
    """Return the table of a sweep; a failed job's row says why it failed.

    Args:
        rows: the jobs.
        folder: the sweep's folder, named under the table.
    """
    shared = [text for text in rows[0].overrides if all(text in row.overrides for row in rows)] if rows else []
    title = " ".join(["Sweep", *shared]) if len(rows) > 1 else "Sweep"
    table = Table(box=SIMPLE_HEAD, title=Text(shown(title)), title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("job", justify="right")
    table.add_column("settings", overflow="fold", min_width=20)
    for heading in ("asked", "sparsity", "accuracy", "dense", "factor"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        settings = [text for text in row.overrides if len(rows) == 1 or text not in shared]
        if row.results is None:
            failure = Text(shown(f"failed: {row.error or ''}"), style="red")
            table.add_row(Text(shown(row.job)), Text("\n").join([*map(_text, settings), failure]), *["-"] * 5)
            continue
        found = row.results
        table.add_row(
            Text(shown(row.job)),
            Text("\n").join(map(_text, settings)),
            percent(found["target_sparsity"]),
            percent(found["sparsity"]),
            percent(found["accuracy"]),
            percent(found["dense_accuracy"]),
            f"{found['compression']:.1f}x",
        )
    return Group(table, Text(shown(f"  {folder}"), style="dim"))


def write_summary(rows: Sequence[SweepRow], path: Path) -> None:
    """Write one line a job: its settings, its figures, and its error if it failed."""

    def write(scratch: Path) -> None:
        with scratch.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["job", "overrides", *FIGURES, "error"])
            for row in rows:
                figures = row.results or {}
                values = [figures.get(name) for name in FIGURES]
                texts = [_inert(text) for text in (row.job, " ".join(row.overrides), row.error or "")]
                writer.writerow([*texts[:2], *values, texts[2]])

    write_atomically(path, write)


def _text(setting: str) -> Text:
    return Text(shown(setting))


def _inert(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
