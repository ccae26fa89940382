"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_dynprune.report.text import duration, file_size, percent, shown


def run_table(results: Mapping[str, Any], folder: Path) -> RenderableType:
    """Return the table of a run: dense and pruned side by side, then each pruned layer.

    Args:
        results: the content of ``results.json``.
        folder: the run's folder, named under the table.
    """
    journal = results.get("journal")
    notes = [] if journal is None else [Text(shown(f"  {note}")) for note in journal["notes"]]
    return Group(_comparison(results), _layers(results), *notes, Text(shown(f"  {folder}"), style="dim"))


def run_line(results: Mapping[str, Any], folder: Path) -> RenderableType:
    """Return one line on a run, for a sweep that has its own table at the end.

    Args:
        results: the content of ``results.json``.
        folder: the run's folder, named in the line.
    """
    return Text(
        f"  {percent(results['sparsity'])} pruned, {results['compression']:.1f}x, "
        f"test accuracy {percent(results['accuracy'])} (dense {percent(results['dense_accuracy'])}), "
        f"{shown(str(folder))}",
        style="dim",
    )


def _comparison(results: Mapping[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, title="Dense and pruned", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("dense", justify="right")
    table.add_column("pruned", justify="right", style="bold")
    seconds, size = results["seconds"], results["bytes"]
    table.add_row("test accuracy", percent(results["dense_accuracy"]), percent(results["accuracy"]))
    table.add_row("validation accuracy", percent(results["dense_val_accuracy"]), percent(results["val_accuracy"]))
    table.add_row("sparsity asked for", "0.00 %", percent(results["target_sparsity"]))
    table.add_row("sparsity reached", "0.00 %", percent(results["sparsity"]))
    table.add_row("non-zero parameters", f"{results['parameters']:,}", f"{results['nonzero']:,}")
    table.add_row("compression", "1.0x", f"{results['compression']:.1f}x")
    if (journal := results.get("journal")) is not None:
        table.add_row("updates", "", f"{journal['updates']:,}")
        table.add_row("connections dropped, grown", "", f"{journal['dropped']:,}, {journal['grown']:,}")
        if journal["returned_share"] is not None:
            table.add_row("of those kept, once cut", "", percent(journal["returned_share"]))
    table.add_row("weights on disk, dense and compact", file_size(size["dense"]), file_size(size["compact"]))
    table.add_row("training", duration(seconds["dense"]) if "dense" in seconds else "-", duration(seconds["pruned"]))
    table.add_row("reading data, testing", "", f"{duration(seconds['data'])}, {duration(seconds['test'])}")
    return table


def _layers(results: Mapping[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, title="Pruned layers", title_justify="left", title_style="bold")
    table.add_column("parameter")
    table.add_column("connections", justify="right")
    table.add_column("kept", justify="right")
    table.add_column("sparsity", justify="right")
    for name, sparsity in results["layers"].items():
        count = results["connections"][name]
        table.add_row(Text(shown(name)), f"{count:,}", f"{count - round(count * sparsity):,}", percent(sparsity))
    return table
