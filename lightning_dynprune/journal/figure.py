"""The journal as a figure of densities and churn over the optimizer steps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import pairwise

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lightning_dynprune.base import PALETTE
from lightning_dynprune.journal.overview import Overview

_MOST_NOTES = 6


def draw_journal(overview: Overview) -> Figure:
    """Draw churn and every target's density over the optimizer steps, with the notes as numbered lines.

    Args:
        overview: the journal's data.
    """
    lines = _note_lines(overview.notes)
    figure = Figure(figsize=(9, 5.6 + 0.2 * len(lines)), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    steps = [update.step for update in overview.updates]
    end = max([1, *steps, *(step for step, _ in overview.notes)])
    _draw_density(figure, above, overview, [0, *steps, max(end, round(1.02 * end))])
    _draw_churn(below, overview)
    for axes in (above, below):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.grid(color=PALETTE.grid, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, 1.02 * end)
        for step, _ in overview.notes:
            axes.axvline(step, color=PALETTE.muted, linestyle=(0, (1, 2)), linewidth=1.2)
    for number, (step, _) in enumerate(overview.notes, 1):
        above.annotate(
            str(number), (step, 1.0), (0, 4), xycoords=above.get_xaxis_transform(), textcoords="offset points",
            ha="center", va="bottom", color=PALETTE.muted, fontsize=8,
        )  # fmt: skip
    below.set_xlabel("optimizer steps")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    kept = sum(overview.kept.values()) / overview.total
    figure.suptitle(f"{overview.headline} · {kept:.2%} of connections kept", fontsize=12)
    if lines:
        # Of all texts below the axes, the layout reserves space for the super-label only.
        figure.supxlabel("\n".join(lines), fontsize=8, color=PALETTE.muted, x=0.01, ha="left", parse_math=False)
    return figure


def _draw_density(figure: Figure, axes: Axes, overview: Overview, steps: Sequence[int]) -> None:
    sizes, histories = overview.sizes, overview.kept_over_time()
    few = len(sizes) <= len(PALETTE.series)
    shades = LinearSegmentedColormap.from_list("depth", colormaps["viridis"].resampled(256)(range(10, 230)))
    depth = Normalize(1, max(len(sizes), 2))
    for position, (name, history) in enumerate(histories.items()):
        density = [kept / max(sizes[name], 1) for kept in history]
        axes.step(
            steps, [*density, density[-1]], where="post", linewidth=1.6 if few else 1,
            color=PALETTE.series[position] if few else shades(depth(position + 1)), alpha=1 if few else 0.7,
            label=f"{density[-1]:.1%}  {_short(name)}" if few else None,
        )  # fmt: skip
    overall = [sum(kept) / overview.total for kept in zip(*histories.values(), strict=True)]
    axes.step(
        steps, [*overall, overall[-1]], where="post", linewidth=1.8, color=PALETTE.overall, linestyle=(0, (4, 1.5)),
        label=f"{overall[-1]:.1%}  all targets",
    )  # fmt: skip
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("density")
    if not few:
        bar = figure.colorbar(ScalarMappable(depth, shades), ax=axes, pad=0.02, aspect=30)
        bar.set_label("target, first to last")
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        bar.outline.set_visible(False)
    legend = axes.legend(
        loc="center left" if few else "best", bbox_to_anchor=(1.01, 0.5) if few else None, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_churn(axes: Axes, overview: Overview) -> None:
    axes.set_ylabel("churn")
    updates, total = overview.updates, overview.total
    if not updates:
        axes.text(0.5, 0.5, "no update yet", ha="center", va="center", transform=axes.transAxes, color=PALETTE.muted)
        return
    steps = [update.step for update in updates]
    dropped = [sum(update.dropped.values()) / total for update in updates]
    grown = [sum(update.grown.values()) / total for update in updates]
    spans = [later - earlier for earlier, later in pairwise(steps) if later > earlier]
    width = 0.7 * min([*spans, max(steps[-1], 1) / 12])
    axes.bar(steps, dropped, width, color=PALETTE.dropped, label="dropped")
    if any(grown):
        axes.bar(steps, grown, width, bottom=dropped, color=PALETTE.grown, label="grown")
    # Beside the axes the legend lines up with that of the targets; next to a color bar it would leave a gap.
    beside = len(overview.sizes) <= len(PALETTE.series)
    axes.legend(
        loc="center left" if beside else "best",
        bbox_to_anchor=(1.01, 0.5) if beside else None,
        frameon=False,
        fontsize=9,
    )


def _note_lines(notes: Sequence[tuple[int, str]]) -> list[str]:
    lines = [
        textwrap.shorten(f"{number} · step {step}: {text}", 130, placeholder=" ...")
        for number, (step, text) in enumerate(notes[:_MOST_NOTES], 1)
    ]
    more = len(notes) - _MOST_NOTES
    return [*lines, f"and {more} more"] if more > 0 else lines


def _short(name: str, most: int = 32) -> str:
    return name if len(name) <= most else f"...{name[3 - most :]}"
