"""Scores of coupled units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_dynprune.selection import Scores, at_least_float32
from lightning_dynprune.targets import TargetView

if TYPE_CHECKING:
    from lightning_dynprune.engine.coupled.coupled_masks import CoupledMasks


def coupled_scores(
    units: CoupledMasks, views: Sequence[TargetView], score: Callable[[TargetView], Tensor]
) -> list[Scores]:
    """Return the scores of the units of every group: the mean over the kept connections that make each unit.

    Args:
        units: the groups.
        views: of the targets.
        score: makes one score a connection.
    """
    sums = [torch.zeros(group.units, dtype=torch.float64) for group in units.groups]
    counts = [torch.zeros(group.units, dtype=torch.float64) for group in units.groups]
    for position, view in enumerate(views):
        made = units.made_by(position)
        if not made:
            continue
        # What a strategy remembers of pruned connections is no part of the unit any more.
        scores = at_least_float32(score(view)).masked_fill(~view.mask, 0.0)
        for number, axis in made:
            for total, values in ((sums, scores), (counts, view.mask)):
                rows = values.movedim(axis.dim, 0).flatten(1).sum(1, dtype=torch.float64).cpu()
                total[number] += rows[axis.index].sum(1)
    return [_scores_of(units, number, sums[number], counts[number], views) for number in range(len(units.groups))]


def _scores_of(units: CoupledMasks, number: int, total: Tensor, count: Tensor, views: Sequence[TargetView]) -> Scores:
    """Return the scores of one group, given the sum and the number of its connections' scores."""
    group, lives = units.groups[number], units.alive[number]
    mean = total / count.clamp(min=1)
    scale = mean[lives].abs().mean()
    pooled = (mean / scale if units.pattern.relative and scale > 0 else mean).float()
    view = views[units.makers(group)[0]]

    def pieces() -> Iterator[tuple[Tensor, Tensor | None]]:
        yield pooled, lives

    return Scores(
        group.name,
        group.units,
        int(lives.sum()),
        pieces=pieces,
        sample=lambda index: (pooled[index], lives[index]),
        min_kept=units.least(number),
        shape=(group.units,),
        seed=view.seed,
        step=view.step,
    )
