"""One update of masks whose units reach over several targets: score, cut to a count of connections, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.optim import Optimizer

from lightning_dynprune.engine.coupled.coupled_masks import GroupMasks
from lightning_dynprune.engine.mask_update import Changes, Written
from lightning_dynprune.masks import without_scratch_bit
from lightning_dynprune.selection import Cut, Scores, cut
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import TargetView
from lightning_dynprune.thresholds import Threshold


def revise_groups(
    units: GroupMasks,
    views: Sequence[TargetView],
    strategy: Strategy,
    threshold: Threshold,
    sparsity: float,
    optimizers: Sequence[Optimizer],
    written: Written,
) -> Changes:
    """Write new masks, so that as many connections are pruned as the sparsity asks for, to the nearest unit.

    How many connections go with a unit depends on what else goes, since a weight has rows of one group and columns of
    another. So the number of units is searched for by halving; each try is a cut of all groups' units.

    Args:
        units: the groups, and the masks to write; an error leaves them as they were.
        views: what the strategy sees, one a target.
        strategy: with its settings of now.
        threshold: with its settings of now.
        sparsity: share of all connections to have pruned.
        optimizers: what trains the tensors beside the targets.
        written: called for every target once its mask is written, with its position and its mask before.

    Raises:
        NonFiniteError: a score is not finite.
    """
    masks = units.masks
    scores = units.scores(views, strategy.score)
    cuts = _cut(units, scores, threshold, masks.total - int(sparsity * masks.total + 0.5))
    units.take([torch.cat(list(c.keeps(s))) for c, s in zip(cuts, scores, strict=True)], optimizers)
    dropped, grown = [], []
    for position in range(len(views)):
        before = without_scratch_bit(masks.tensors[position])
        lost, won = masks.write(position, [units.mask(position).reshape(-1)])
        dropped.append(lost)
        grown.append(won)
        written(position, before)
    return Changes([units.cut_of(position, cuts) for position in range(len(views))], dropped, grown)


def _cut(units: GroupMasks, scores: Sequence[Scores], threshold: Threshold, wanted: int) -> list[Cut]:
    """Return the cuts after which about ``wanted`` connections live."""

    def kept(keep: int) -> int:
        return units.kept([units.rounded(i, c.kept) for i, c in enumerate(threshold.cut_to_count(keep, scores))])

    alive = sum(s.candidates for s in scores)
    keep = fewest(kept, wanted, alive)
    if keep and wanted - kept(keep - 1) <= kept(keep) - wanted:
        keep -= 1
    total = sum(s.units for s in scores)
    cuts = threshold.cut(scores, 1 - keep / total)
    return [
        c if (count := units.rounded(number, c.kept)) == c.kept else cut(count, [s])[0]
        for number, (c, s) in enumerate(zip(cuts, scores, strict=True))
    ]


def fewest(measure: Callable[[int], int], wanted: int, most: int) -> int:
    """Return the smallest count in [0, most] whose measure reaches ``wanted``; ``most`` where none does.

    Args:
        measure: does not fall as the count rises.
        wanted: what to reach.
        most: the largest count.

    Example:
        >>> fewest(lambda count: count * count, 10, 100)
        4
    """
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if measure(middle) >= wanted else (middle + 1, high)
    return low
