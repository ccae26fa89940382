"""The table that the program prints at the end of a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from lightning_dynprune.report.text import duration, file_size, percent, plain_text, titled_table


def run_table(results: Mapping[str, Any], folder: Path, files: Sequence[str] = ()) -> RenderableType:
    """Return the tables of a run: the dense beside the pruned network, one row per pruned layer, and per-input pruning.

    Args:
        results: the content of ``results.json``.
        folder: the run's folder, named under the tables.
        files: names of the files in it.
    """
    journal = results.get("journal")
    notes = [] if journal is None else [plain_text(f"  {note}") for note in journal["notes"]]
    adaptive = results.get("adaptive")
    per_input = [] if adaptive is None else [_per_input(adaptive)]
    return Group(_comparison(results), _layers(results), *per_input, *notes, *_next(folder, files))


def _next(folder: Path, files: Sequence[str]) -> list[RenderableType]:
    """Return the files of a run, and the command that measures what its pruning saves."""
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    command = shlex.join(["dynprune", "task=deploy", f"checkpoint={folder}"])
    return [
        plain_text(f"Files in {folder}:", style="bold"),
        plain_text(f"  {', '.join(files)}"),
        plain_text("What it saves on this machine:", style="bold"),
        plain_text(f"  {command}"),
    ]


def _comparison(results: Mapping[str, Any]) -> Table:
    table = titled_table("Dense and pruned", pad_edge=True)
    table.add_column("")
    table.add_column("dense", justify="right")
    table.add_column("pruned", justify="right", style="bold")
    seconds, size = results["seconds"], results["bytes"]
    dense_seconds = duration(seconds["dense"]) if "dense" in seconds else "-"
    table.add_row("test accuracy", percent(results["dense_accuracy"]), percent(results["accuracy"]))
    table.add_row("validation accuracy", percent(results["dense_val_accuracy"]), percent(results["val_accuracy"]))
    table.add_row("sparsity asked for", "0.00 %", percent(results["target_sparsity"]))
    table.add_row("sparsity reached", "0.00 %", percent(results["sparsity"]))
    table.add_row("non-zero parameters", f"{results['parameters']:,}", f"{results['nonzero']:,}")
    table.add_row("compression", "1.0x", f"{results['compression']:.1f}x")
    if (journal := results.get("journal")) is not None:
        table.add_row("mask updates", "", f"{journal['updates']:,}")
        table.add_row("connections dropped", "", f"{journal['dropped']:,}")
        table.add_row("connections grown", "", f"{journal['grown']:,}")
        if journal["returned_share"] is not None:
            table.add_row("kept connections that returned", "", percent(journal["returned_share"]))
    table.add_row("weights on disk (pruned: packed)", file_size(size["dense"]), file_size(size["compact"]))
    table.add_row("training time", dense_seconds, duration(seconds["pruned"]))
    table.add_row("time to read the data", "", duration(seconds["data"]))
    table.add_row("time to test", "", duration(seconds["test"]))
    return table


def _layers(results: Mapping[str, Any]) -> Table:
    table = titled_table("Pruned layers", pad_edge=True)
    table.add_column("parameter")
    table.add_column("connections", justify="right")
    table.add_column("kept", justify="right")
    table.add_column("sparsity", justify="right")
    for name, sparsity in results["layers"].items():
        count = results["connections"][name]
        table.add_row(plain_text(name), f"{count:,}", f"{count - round(count * sparsity):,}", percent(sparsity))
    return table


def _per_input(adaptive: Mapping[str, Any]) -> Table:
    figures = adaptive["figures"]
    table = titled_table(f"Per input, {adaptive['method']}", pad_edge=True)
    table.add_column("test set")
    table.add_column("inputs", justify="right")
    table.add_column("accuracy", justify="right")
    for name in adaptive["paths"]:
        table.add_row(plain_text(name), percent(figures[f"share/{name}"]), percent(figures[f"accuracy/{name}"]))
    table.add_row("all, per input", "100.00 %", percent(figures["accuracy"]))
    table.add_row("all, by the whole network", "100.00 %", percent(figures["dense_accuracy"]))
    table.add_row("easy half", "50.00 %", percent(figures["accuracy_easy"]))
    table.add_row("hard half", "50.00 %", percent(figures["accuracy_hard"]))
    table.add_section()
    spread = [percent(figures[name]) for name in ("compute_mean", "compute_p5", "compute_p95")]
    table.add_row("multiply-adds: mean", spread[0], "")
    table.add_row("multiply-adds: 5th, 95th percentile", *spread[1:])
    correlation = figures["rank_correlation"]
    table.add_row("rank correlation of loss and compute", "-" if correlation is None else f"{correlation:.2f}", "")
    for name, density in figures.items():
        if name.startswith("density/"):
            table.add_row(plain_text(f"density of {name.removeprefix('density/')}"), percent(density), "")
    return table
