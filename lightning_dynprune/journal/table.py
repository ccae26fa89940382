"""The journal as a table of plain text."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_dynprune.journal.overview import Overview

MOST_ROWS = 40
_HEADER = ("step", "asked", "reached", "dropped", "grown", "churn")


def summary_table(overview: Overview, returned_share: float | None, earliest_step: int) -> str:
    """Return a table with one row per update and one per target, then the returned share and the notes.

    Of more than 40 updates, 40 are shown at even distances, the first and the last included.

    Args:
        overview: the journal's data.
        returned_share: share of the kept connections that had once been pruned; None where it is not known.
        earliest_step: step at which the recorded positions begin.
    """
    updates = overview.updates
    shown = [updates[index] for index in _even_choice(len(updates), MOST_ROWS)]
    rows = [
        (
            str(update.step),
            f"{update.scheduled_sparsity:.2%}",
            f"{update.sparsity:.2%}",
            f"{sum(update.dropped.values()):,}",
            f"{sum(update.grown.values()):,}",
            f"{update.churn:.2%}",
        )
        for update in shown
    ]
    few = f", {len(shown)} of them shown" if len(shown) < len(updates) else ""
    densities = [
        (name, f"{kept / max(overview.sizes[name], 1):.2%}", f"{kept:,} of {overview.sizes[name]:,} kept")
        for name, kept in overview.kept.items()
    ]
    last = f", the last {len(updates)} recorded" if len(updates) < overview.count else ""
    lines = [f"{overview.headline}{last}{few}"]
    if rows:
        lines += ["", *_aligned([_HEADER, *rows], ">>>>>>")]
    lines += [
        "",
        *_aligned([("target", "density", ""), *densities], "<>>"),
        "",
        _returned(returned_share, earliest_step),
    ]
    if overview.notes:
        lines += ["", *(f"step {step}: {text}" for step, text in overview.notes)]
    return "\n".join(lines)


def _returned(share: float | None, earliest_step: int) -> str:
    if share is None:
        return "kept connections that had once been pruned: not known, since no positions are recorded any more"
    since = f" since step {earliest_step}, where the recorded positions begin" if earliest_step else ""
    return f"kept connections that had once been pruned{since}: {share:.2%}"


def _even_choice(count: int, most: int) -> list[int]:
    """Return at most ``most`` of ``count`` positions at even distances, the first and the last included."""
    if count <= most:
        return list(range(count))
    return [row * (count - 1) // (most - 1) for row in range(most)]


def _aligned(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]
