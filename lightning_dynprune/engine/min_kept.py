"""Who came down to what must stay."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_dynprune.engine.coupled import GroupMasks
from lightning_dynprune.masks import MaskSet
from lightning_dynprune.patterns import Pattern


@dataclass(frozen=True)
class Floor:
    """What a target, or a group of units, must keep.

    Attributes:
        name: of the target or the group.
        min_kept: units that must stay.
        least: what that comes to, in connections of a target or units of a group.
        kept: how many of those live.
        whole: how many there are, in words.
    """

    name: str
    min_kept: int
    least: int
    kept: int
    whole: str


def floors(masks: MaskSet, pattern: Pattern, units: GroupMasks | None) -> list[Floor]:
    """Return what every target must keep, or every group where units reach over several targets."""
    if units is not None:
        return [Floor(name, least, least, kept, f"{size} units") for name, size, least, kept in units.floors()]
    found = []
    for target, kept in zip(masks.targets, masks.kept, strict=True):
        least = min(max(target.min_kept * pattern.size, pattern.num_uncovered(target)), target.numel)
        found.append(Floor(target.name, target.min_kept, least, kept, f"{target.numel} connections"))
    return found


def refuse_out_of_reach(masks: MaskSet, pattern: Pattern, sparsity: float) -> None:
    """Raise where what targets must keep leaves less to prune than is asked for.

    Args:
        masks: all kept, of targets that are pruned one by one.
        pattern: their units.
        sparsity: the share of all connections to end at.

    Raises:
        ValueError: naming ``min_kept``, and the share that would be within reach.
    """
    least = sum(floor.least for floor in floors(masks, pattern, None))
    asked = int(sparsity * masks.total / pattern.size + 0.5) * pattern.size  # as a cut rounds it
    if masks.total - least + pattern.size < asked:
        largest = max(target.min_kept for target in masks.targets)
        raise ValueError(
            f"sparsity={sparsity!r} is not within reach: with min_kept={largest} (the largest of the targets') "
            f"{1 - least / masks.total:.6g} at most is pruned here; lower one of them"
        )


def name_reached(before: Sequence[Floor], after: Sequence[Floor], named: set[str], stacklevel: int) -> None:
    """Say once, by name, who came down to what must stay.

    Args:
        before: the floors before an update.
        after: the same after it.
        named: who has been named already; added to.
        stacklevel: of the warning.
    """
    for was, now in zip(before, after, strict=True):
        if was.kept > now.kept <= now.least and now.name not in named:
            named.add(now.name)
            warnings.warn(
                f"{now.name} is down to min_kept={now.min_kept} of its {now.whole} and is pruned no further",
                stacklevel=stacklevel + 1,
            )
