"""The figures of one update."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_dynprune.base import is_number, is_whole


@dataclass(frozen=True)
class Update:
    """One change of the masks.

    Attributes:
        step: optimizer steps done.
        scheduled_sparsity: what the schedule asked for.
        sparsity: what was reached.
        dropped: connections pruned, by target.
        grown: connections returned, by target.
        churn: share of mask entries that flipped.
        cuts: the score at which each target was cut, by target: what scored above it stayed.
    """

    step: int
    scheduled_sparsity: float
    sparsity: float
    dropped: dict[str, int]
    grown: dict[str, int]
    churn: float
    cuts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DiscardedTotals:
    """What the updates came to that are no longer recorded.

    Attributes:
        updates: how many they were.
        dropped: connections they pruned.
        grown: connections they returned.
        step: of the last of them.
    """

    updates: int = 0
    dropped: int = 0
    grown: int = 0
    step: int = 0

    def plus(self, update: Update) -> DiscardedTotals:
        """Return the same with one more update."""
        dropped, grown = sum(update.dropped.values()), sum(update.grown.values())
        return DiscardedTotals(self.updates + 1, self.dropped + dropped, self.grown + grown, update.step)


def read_discarded_totals(entry: Any) -> DiscardedTotals:
    """Return what ``dataclasses.asdict`` made ``entry`` of, every figure checked.

    Raises:
        ValueError: a figure is missing or no whole number of at least 0.
    """
    fields = {f.name for f in dataclasses.fields(DiscardedTotals)}
    if not isinstance(entry, Mapping) or set(entry) != fields or not all(map(_is_count, entry.values())):
        raise ValueError(f"journal: 'gone' does not count {sorted(fields)}; the file is damaged")
    return DiscardedTotals(**entry)


def read_update(entry: Any, sizes: Mapping[str, int], where: str) -> Update:
    """Return the update that ``dataclasses.asdict`` made ``entry`` of, every figure checked.

    Args:
        entry: from a file.
        sizes: connections by target.
        where: names the entry in messages.

    Raises:
        ValueError: a figure is missing, of another type or out of range.
    """
    fields = {f.name for f in dataclasses.fields(Update)}
    if not isinstance(entry, Mapping) or set(entry) != fields:
        raise ValueError(f"{where}: expected the figures {sorted(fields)}; the file is damaged")
    if not _is_count(entry["step"]):
        raise ValueError(f"{where}: step={entry['step']!r} is no whole number of at least 0")
    for figure in ("scheduled_sparsity", "sparsity", "churn"):
        if not is_number(entry[figure]) or entry[figure] < 0:
            raise ValueError(f"{where}: {figure}={entry[figure]!r} is no number of at least 0")
    for figure in ("dropped", "grown"):
        counts = entry[figure]
        if not isinstance(counts, Mapping) or set(counts) != set(sizes):
            raise ValueError(f"{where}: {figure} does not count every target once; the file is damaged")
        for name, count in counts.items():
            if not _is_count(count) or count > sizes[name]:
                raise ValueError(f"{where}: {figure} of {name} is {count!r}; it has {sizes[name]} connections")
    cuts = entry["cuts"]
    # A cut may be infinite, where all or nothing stayed.
    if not isinstance(cuts, Mapping) or not all(n in sizes and isinstance(c, float) for n, c in cuts.items()):
        raise ValueError(f"{where}: cuts={cuts!r} does not give a number by target; the file is damaged")
    figures: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in entry.items()
    }
    return Update(**figures)


def _is_count(value: Any) -> bool:
    return is_whole(value) and value >= 0
