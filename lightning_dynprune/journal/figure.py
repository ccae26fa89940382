"""The journal as a figure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from lightning_dynprune.journal.record import Journal

DROPPED, GROWN, OVERALL, QUIET, GRID = "#c8553d", "#5b8c5a", "#111827", "#6b7280", "#e5e7eb"
SERIES = ("#0b6e99", "#c8553d", "#5b8c5a", "#8a5fa8", "#c99a2e", "#4c5b8f", "#a8576b", "#3d8f8f")
_MOST_NOTES = 6


def draw_journal(journal: Journal) -> Figure:
    """Draw churn and every target's density over the optimizer steps, notes as numbered marks.

    Args:
        journal: the journal.
    """
    notes = journal.notes
    lines = _note_lines(notes)
    figure = Figure(figsize=(9, 5.6 + 0.2 * len(lines)), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    steps = [update.step for update in journal.updates]
    end = max([1, *steps, *(step for step, _ in notes)])
    _draw_density(figure, above, journal, [0, *steps, max(end, round(1.02 * end))])
    _draw_churn(below, journal)
    for axes in (above, below):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, 1.02 * end)
        for step, _ in notes:
            axes.axvline(step, color=QUIET, linestyle=(0, (1, 2)), linewidth=1.2)
    for number, (step, _) in enumerate(notes, 1):
        above.annotate(
            str(number), (step, 1.0), (0, 4), xycoords=above.get_xaxis_transform(), textcoords="offset points",
            ha="center", va="bottom", color=QUIET, fontsize=8,
        )  # fmt: skip
    below.set_xlabel("optimizer steps")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    kept = 1 - journal.masks.sparsity
    count = journal.totals["updates"]
    figure.suptitle(f"{count} update{'' if count == 1 else 's'} · {kept:.2%} of connections kept", fontsize=12)
    if lines:
        # The super-label is the one text below the axes that the layout makes room for.
        figure.supxlabel("\n".join(lines), fontsize=8, color=QUIET, x=0.01, ha="left", parse_math=False)
    return figure


def _draw_density(figure: Figure, axes: Axes, journal: Journal, steps: Sequence[int]) -> None:
    targets = journal.masks.targets
    histories = _kept_over_time(journal)
    few = len(targets) <= len(SERIES)
    shades = LinearSegmentedColormap.from_list("depth", colormaps["viridis"].resampled(256)(range(10, 230)))
    depth = Normalize(1, max(len(targets), 2))
    for position, (target, history) in enumerate(zip(targets, histories, strict=True)):
        density = [kept / max(target.numel, 1) for kept in history]
        axes.step(
            steps, [*density, density[-1]], where="post", linewidth=1.6 if few else 1,
            color=SERIES[position] if few else shades(depth(position + 1)), alpha=1 if few else 0.7,
            label=f"{density[-1]:.1%}  {_short(target.name)}" if few else None,
        )  # fmt: skip
    total = max(journal.masks.total, 1)
    overall = [sum(kept) / total for kept in zip(*histories, strict=True)]
    axes.step(
        steps, [*overall, overall[-1]], where="post", linewidth=1.8, color=OVERALL, linestyle=(0, (4, 1.5)),
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


def _draw_churn(axes: Axes, journal: Journal) -> None:
    axes.set_ylabel("churn")
    updates, total = journal.updates, max(journal.masks.total, 1)
    if not updates:
        axes.text(0.5, 0.5, "no update yet", ha="center", va="center", transform=axes.transAxes, color=QUIET)
        return
    steps = [update.step for update in updates]
    dropped = [sum(update.dropped.values()) / total for update in updates]
    grown = [sum(update.grown.values()) / total for update in updates]
    spans = [later - earlier for earlier, later in pairwise(steps) if later > earlier]
    width = 0.7 * min([*spans, max(steps[-1], 1) / 12])
    axes.bar(steps, dropped, width, color=DROPPED, label="dropped")
    if any(grown):
        axes.bar(steps, grown, width, bottom=dropped, color=GROWN, label="grown")
    # Beside the axes it lines up with the targets' legend; where those have a colour bar it would leave a gap.
    beside = len(journal.masks.targets) <= len(SERIES)
    axes.legend(
        loc="center left" if beside else "best",
        bbox_to_anchor=(1.01, 0.5) if beside else None,
        frameon=False,
        fontsize=9,
    )


def _kept_over_time(journal: Journal) -> list[list[int]]:
    """Return each target's kept connections before the first update and after every one, told back from now."""
    histories = []
    for target, now in zip(journal.masks.targets, journal.masks.kept, strict=True):
        history = [now]
        for update in reversed(journal.updates):
            history.append(history[-1] + update.dropped[target.name] - update.grown[target.name])
        histories.append(history[::-1])
    return histories


def _note_lines(notes: Sequence[tuple[int, str]]) -> list[str]:
    lines = [
        textwrap.shorten(f"{number} · step {step}: {text}", 130, placeholder=" ...")
        for number, (step, text) in enumerate(notes[:_MOST_NOTES], 1)
    ]
    more = len(notes) - _MOST_NOTES
    return [*lines, f"and {more} more"] if more > 0 else lines


def _short(name: str, most: int = 32) -> str:
    return name if len(name) <= most else f"...{name[3 - most :]}"
