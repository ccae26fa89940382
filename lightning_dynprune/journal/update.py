"""The figures of one update, and the totals of updates that are no longer recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_dynprune.base import is_number, is_whole


@dataclass(frozen=True)
class Update:
    """One change of the masks.

    Attributes:
        step: number of optimizer steps done.
        scheduled_sparsity: the sparsity given by the schedule.
        sparsity: the sparsity reached.
        dropped: number of connections pruned, by target.
        grown: number of connections returned, by target.
        churn: share of mask entries that flipped.
        cuts: the score at the cut, by target: connections that scored above it were kept.
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
    """Totals of the updates that are no longer recorded.

    Attributes:
        updates: number of updates.
        dropped: number of connections they pruned.
        grown: number of connections they returned.
        step: step of the last of them.
    """

    updates: int = 0
    dropped: int = 0
    grown: int = 0
    step: int = 0

    def plus(self, update: Update) -> DiscardedTotals:
        """Return the totals with one more update."""
        dropped, grown = sum(update.dropped.values()), sum(update.grown.values())
        return DiscardedTotals(self.updates + 1, self.dropped + dropped, self.grown + grown, update.step)

    def plus_first(self, count: int, columns: Mapping[str, Tensor]) -> DiscardedTotals:
        """Return the totals with the first updates of some.

        Args:
            count: number of those updates.
            columns: figures of all of them: step ``(updates,)``, dropped and grown ``(updates, targets)``.
        """
        if not count:
            return self
        dropped, grown, step = (columns[key][:count] for key in ("dropped", "grown", "step"))
        return DiscardedTotals(
            self.updates + count, self.dropped + int(dropped.sum()), self.grown + int(grown.sum()), int(step[-1])
        )


def read_discarded_totals(entry: Any) -> DiscardedTotals:
    """Return the totals that ``dataclasses.asdict`` wrote as ``entry``, after checking every figure.

    Raises:
        ValueError: a figure is missing or is not a whole number of at least 0.
    """
    fields = {f.name for f in dataclasses.fields(DiscardedTotals)}
    if not isinstance(entry, Mapping) or set(entry) != fields or not all(map(_is_count, entry.values())):
        raise ValueError(f"journal: 'gone' does not hold counts of {sorted(fields)}; the file is damaged")
    return DiscardedTotals(**entry)


def read_update(entry: Any, sizes: Mapping[str, int], where: str) -> Update:
    """Return the update that ``dataclasses.asdict`` wrote as ``entry``, after checking every figure.

    Args:
        entry: the figures, read from a file.
        sizes: number of connections of each target, by name.
        where: names the entry in messages.

    Raises:
        ValueError: a figure is missing, of another type or out of range.
    """
    fields = {f.name for f in dataclasses.fields(Update)}
    if not isinstance(entry, Mapping) or set(entry) != fields:
        raise ValueError(f"{where}: expected the figures {sorted(fields)}; the file is damaged")
    if not _is_count(entry["step"]):
        raise ValueError(f"{where}: step={entry['step']!r} is not a whole number of at least 0")
    for figure in ("scheduled_sparsity", "sparsity", "churn"):
        if not is_number(entry[figure]) or entry[figure] < 0:
            raise ValueError(f"{where}: {figure}={entry[figure]!r} is not a number of at least 0")
    for figure in ("dropped", "grown"):
        counts = entry[figure]
        if not isinstance(counts, Mapping) or set(counts) != set(sizes):
            raise ValueError(f"{where}: {figure} does not hold one count per target; the file is damaged")
        for name, count in counts.items():
            if not _is_count(count) or count > sizes[name]:
                raise ValueError(f"{where}: {figure} of {name} is {count!r}; it has {sizes[name]} connections")
    cuts = entry["cuts"]
    # A cut is infinite where all connections or none were kept.
    if not isinstance(cuts, Mapping) or not all(n in sizes and isinstance(c, float) for n, c in cuts.items()):
        raise ValueError(f"{where}: cuts={cuts!r} does not hold a number per target; the file is damaged")
    figures: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in entry.items()
    }
    return Update(**figures)


def _is_count(value: Any) -> bool:
    return is_whole(value) and 0 <= value < 2**63
