"""The units that every target, or group of coupled units, has to keep."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_dynprune.patterns import Pattern
from lightning_dynprune.targets import Target


@dataclass(frozen=True)
class MinKept:
    """The least that one target, or one group of coupled units, has to keep.

    Attributes:
        name: of the target or group.
        min_kept: units that have to stay.
        least: the same in connections of a target, or in units of a group.
        kept: how many of those are kept now.
        size: how many there are, in words.
    """

    name: str
    min_kept: int
    least: int
    kept: int
    size: str


class MinKeptWarnings:
    """Warns once for each target or group that an update prunes down to ``min_kept``.

    Attributes:
        names: targets and groups that have been warned about.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()

    def add(self, before: Sequence[MinKept], after: Sequence[MinKept]) -> list[str]:
        """Note the targets and groups that an update brought down to ``min_kept``; return a warning for each new one.

        Args:
            before: what was kept before the update.
            after: what is kept after it.
        """
        found = []
        for was, now in zip(before, after, strict=True):
            if was.kept > now.kept <= now.least and now.name not in self.names:
                self.names.add(now.name)
                found.append(
                    f"{now.name} is down to min_kept={now.min_kept} of its {now.size} and is pruned no further"
                )
        return found

    @staticmethod
    def warn(texts: Sequence[str], stacklevel: int) -> None:
        """Warn in the given words.

        Args:
            texts: from :meth:`add`.
            stacklevel: of the warnings, seen from the caller.
        """
        for text in texts:
            warnings.warn(text, stacklevel=stacklevel + 1)


def least_kept(target: Target, pattern: Pattern) -> int:
    """Return how many connections a target has to keep."""
    return min(max(target.min_kept * pattern.unit_size(target), pattern.num_uncovered(target)), target.numel)


def check_reachable(targets: Sequence[Target], pattern: Pattern, sparsity: float) -> None:
    """Raise where ``min_kept`` leaves too little to prune for the sparsity.

    Args:
        targets: of which nothing is pruned yet, and whose units lie in one target each.
        pattern: the units.
        sparsity: the share of all connections to end at.

    Raises:
        ValueError: naming ``min_kept``, and the largest sparsity that can be reached.
    """
    total = sum(target.numel for target in targets)
    least = sum(least_kept(target, pattern) for target in targets)
    sizes = {pattern.unit_size(target) for target in targets}
    size = max(sizes)
    asked = int(sparsity * total / size + 0.5) * size if len(sizes) == 1 else sparsity * total  # as a cut rounds it
    if total - least + size < asked:
        largest = max(target.min_kept for target in targets)
        raise ValueError(
            f"sparsity={sparsity!r} is not within reach: with min_kept={largest} (the largest of the targets') "
            f"{1 - least / total:.6g} at most is pruned here; lower one of them"
        )
