"""New masks for coupled units: score, cut to a number of connections, write."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from lightning_dynprune.engine.coupled.coupled_scores import coupled_scores
from lightning_dynprune.engine.updates import Changes, MaskChanged, UpdateRequest
from lightning_dynprune.masks import without_scratch_bit
from lightning_dynprune.selection import Cut, Scores, cut
from lightning_dynprune.targets import TargetView
from lightning_dynprune.thresholds import Threshold

if TYPE_CHECKING:
    from lightning_dynprune.engine.coupled.coupled_masks import CoupledMasks


def update_coupled_masks(
    units: CoupledMasks, views: Sequence[TargetView], request: UpdateRequest, mask_changed: MaskChanged
) -> Changes:
    """Write new masks, so that as many connections are pruned as the sparsity asks for, to the nearest unit.

    The number of connections that are pruned with a unit depends on the other units, since a weight has rows of one
    group and columns of another. So the number of units is found by bisection; each try cuts the units of all groups.

    Args:
        units: the groups, and the masks to write; an error leaves them as they were.
        views: of the targets.
        request: the parts and the sparsity to reach.
        mask_changed: called for every target once its mask is written, with its position and its mask before.

    Raises:
        NonFiniteError: a score is not finite.
    """
    masks = units.masks
    scores = coupled_scores(units, views, request.strategy.score)
    cuts = _decide(units, scores, request.threshold, masks.total - int(request.sparsity * masks.total + 0.5))
    units.keep([torch.cat(list(c.keeps(s))) for c, s in zip(cuts, scores, strict=True)])
    dropped, grown = [], []
    for position in range(len(views)):
        before = without_scratch_bit(masks.tensors[position])
        lost, won = masks.write(position, [units.mask(position).reshape(-1)])
        dropped.append(lost)
        grown.append(won)
        mask_changed(position, before)
    values = [next((cuts[n].value for n, _ in units.made_by(i)), -math.inf) for i in range(len(views))]
    return Changes(values, dropped, grown)


def _decide(units: CoupledMasks, scores: Sequence[Scores], threshold: Threshold, wanted: int) -> list[Cut]:
    """Return the cuts after which about ``wanted`` connections are kept."""

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
        wanted: the value to reach.
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
