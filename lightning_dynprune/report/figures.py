"""The figures ``sparsity.png`` of a run and ``pareto.png`` of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lightning_dynprune.base import PALETTE, printable, write_atomically
from lightning_dynprune.report.sweep_rows import SweepRow, per_input_figures


def draw_run(results: Mapping[str, Any], path: Path) -> None:
    """Draw sparsity and validation accuracy over the optimizer steps, and the accuracy of the dense baseline.

    Args:
        results: the content of ``results.json``.
        path: the PNG file to write.
    """
    history, steps = results["history"], results["steps"]
    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))

    accuracy = history["val_accuracy"]
    if accuracy:
        above.plot(*zip(*accuracy, strict=True), color=PALETTE.accuracy, linewidth=2, label="pruned, validation")
    if history["dense_val_accuracy"]:
        dense = history["dense_val_accuracy"]
        above.plot(*zip(*dense, strict=True), color=PALETTE.muted, linewidth=1, alpha=0.6, label="dense, validation")
    if results["dense_val_accuracy"] is not None:
        final = results["dense_val_accuracy"]
        above.axhline(
            final, color=PALETTE.muted, linestyle="--", linewidth=1.2, label=f"dense, at the end: {final:.2%}"
        )
    _percent_axis(above, "validation accuracy")
    _limit_to_plateau(above, [value for _, value in [*accuracy, *history["dense_val_accuracy"]]])
    if above.get_legend_handles_labels()[0]:
        above.legend(loc="lower right", frameon=False, fontsize=9)

    if history["sparsity"]:
        points = [*history["sparsity"], (steps, history["sparsity"][-1][1])]
        below.step(*zip(*points, strict=True), where="post", color=PALETTE.sparsity, linewidth=2)
        below.fill_between(*zip(*points, strict=True), step="post", color=PALETTE.sparsity, alpha=0.12, linewidth=0)
    target = results["target_sparsity"]
    below.axhline(target, color=PALETTE.sparsity, linestyle=":", linewidth=1.2)
    below.annotate(
        f"asked for: {target:.2%}", (0, target), (4, -4), textcoords="offset points", va="top", color=PALETTE.sparsity
    )
    _percent_axis(below, "sparsity")
    below.set_ylim(0, 1.02)
    below.set_xlim(0, steps)
    below.set_xlabel("optimizer steps")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))

    figure.suptitle(
        f"{results['sparsity']:.2%} pruned · {results['compression']:.1f}x · "
        f"test accuracy {results['accuracy']:.2%}"
        + ("" if results["dense_accuracy"] is None else f" (dense {results['dense_accuracy']:.2%})"),
        fontsize=12,
    )
    _save(figure, path)


def draw_pareto(rows: Sequence[SweepRow], path: Path) -> None:
    """Draw test accuracy over sparsity, one curve for each set of other overrides, and the dense baseline as a line.

    Where all finished jobs prune per input, the accuracy of that is drawn over the mean share of the multiply-adds.

    Args:
        rows: the jobs; failed ones have no point.
        path: the PNG file to write.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    finished = [row for row in rows if row.results is not None]
    is_per_input = bool(finished) and all(map(per_input_figures, finished))
    for (label, members), color in zip(_series(finished, is_per_input).items(), _colors(), strict=False):
        points = sorted(_point(row, is_per_input) for row in members)
        axes.plot(*zip(*points, strict=True), marker="o", markersize=5, linewidth=2, color=color, label=label)
    controls = sorted({row.results["dense_accuracy"] for row in rows if row.results} - {None})
    for number, accuracy in enumerate(controls):
        # matplotlib leaves labels that begin with an underscore out of the legend: one entry stands for all lines.
        name = f"dense: {accuracy:.2%}" if len(controls) == 1 else "_dense" if number else "dense"
        axes.axhline(accuracy, color=PALETTE.muted, linestyle="--", linewidth=1.2, label=name)
    _percent_axis(axes, "test accuracy")
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_xlabel("mean share of the multiply-adds" if is_per_input else "sparsity reached")
    if axes.get_legend_handles_labels()[0]:
        for text in axes.legend(loc="lower left", frameon=False, fontsize=9).get_texts():
            text.set_parse_math(False)
    else:
        axes.text(
            0.5, 0.5, "no job of this sweep has results", ha="center", transform=axes.transAxes, color=PALETTE.muted
        )
    axes.set_title(f"Accuracy over {'multiply-adds' if is_per_input else 'sparsity'}", fontsize=12)
    _save(figure, path)


def _series(rows: Sequence[SweepRow], is_per_input: bool) -> dict[str, list[SweepRow]]:
    series: dict[str, list[SweepRow]] = {}
    swept = "adaptive.budget=" if is_per_input else "sparsity="
    for row in rows:
        others = [printable(text) for text in row.overrides if not text.startswith(swept)]
        # matplotlib leaves labels that begin with an underscore out of the legend.
        series.setdefault(", ".join(others).lstrip("_") or "pruned", []).append(row)
    return series


def _point(row: SweepRow, is_per_input: bool) -> tuple[float, float]:
    assert row.results is not None
    own = per_input_figures(row)
    return (
        (own["compute_mean"], own["accuracy"]) if is_per_input else (row.results["sparsity"], row.results["accuracy"])
    )


def _colors() -> list[str]:
    return [*PALETTE.series] * 8


def _percent_axis(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.grid(color=PALETTE.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _limit_to_plateau(axes: Axes, values: Sequence[float]) -> None:
    """Set the limits of the y-axis so that the steep rise at the start does not compress the rest."""
    if values:
        lower = sorted(values)[len(values) // 10]
        margin = max(max(values) - lower, 0.005)
        axes.set_ylim(lower - 0.15 * margin, min(max(values) + 0.15 * margin, 1.0 + 0.02 * margin))


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda scratch: figure.savefig(scratch, dpi=150, facecolor="white"))
