"""The journal as a table of plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_dynprune.journal.record import Journal

MOST_ROWS = 40
_HEADER = ("step", "asked", "reached", "dropped", "grown", "churn")


def summary_table(journal: Journal) -> str:
    """Return a row an update, a line a target, the returned share and the notes.

    Of more than 40 updates an even choice is shown, the first and the last among them.

    Args:
        journal: the journal.
    """
    updates = journal.updates
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
    masks = journal.masks
    densities = [
        (target.name, f"{kept / max(target.numel, 1):.2%}", f"{kept:,} of {target.numel:,} kept")
        for target, kept in zip(masks.targets, masks.kept, strict=True)
    ]
    count = journal.totals["updates"]
    last = f", the last {len(updates)} recorded" if len(updates) < count else ""
    lines = [f"{count} update{'' if count == 1 else 's'}{last}{few}"]
    if rows:
        lines += ["", *_aligned([_HEADER, *rows], ">>>>>>")]
    lines += ["", *_aligned([("target", "density", ""), *densities], "<>>"), "", _returned(journal)]
    if journal.notes:
        lines += ["", *(f"step {step}: {text}" for step, text in journal.notes)]
    return "\n".join(lines)


def _returned(journal: Journal) -> str:
    share = journal.returned_share
    if share is None:
        return "kept connections that had once been cut: not known, the cap has let go of all positions"
    since = f" since step {journal.earliest_step}, where the cap lets the record begin" if journal.earliest_step else ""
    return f"kept connections that had once been cut{since}: {share:.2%}"


def _even_choice(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return [row * (count - 1) // (most - 1) for row in range(most)]


def _aligned(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]
