"""The threshold ``topk``: keeps the highest-scored units and reaches the sparsity exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_dynprune.selection import Cut, Scores, cut, cut_each
from lightning_dynprune.targets import Target
from lightning_dynprune.thresholds.base import THRESHOLDS, Threshold, units_to_keep

SCOPES = ("global", "uniform", "erk", "layer")


@THRESHOLDS.register("topk")
@dataclass(frozen=True)
class TopK(Threshold):
    """Keeps the highest-scored units, exactly as many as the scheduled sparsity leaves.

    Args:
        scope: how the sparsity is distributed over targets. ``global``: one cut over all targets. ``uniform``: the same
            density in every target. ``erk``: density_l proportional to sum(shape_l) / prod(shape_l), at most 1, so that
            large layers are sparser. ``layer``: every target has its own final sparsity, given in ``targets``; during
            the schedule all targets are at the same share of it.

    Raises:
        ValueError: the scope is unknown.

    Source: erk: Evci et al., "Rigging the Lottery" (2020), section 3, and algorithm 1 for the
    exchange.

    Example:
        >>> import torch
        >>> a = Scores.from_tensor("a", torch.tensor([1.0, 2.0]))
        >>> b = Scores.from_tensor("b", torch.tensor([3.0, 4.0]))
        >>> [c.kept for c in TopK("global").cut([a, b], 0.5)], [c.kept for c in TopK("uniform").cut([a, b], 0.5)]
        ([1, 1], [1, 1])
        >>> [c.kept for c in TopK("global").cut([a, b], 0.25)]
        [1, 2]
    """

    scope: str = "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope not in SCOPES:
            raise ValueError(f"threshold topk: scope={self.scope!r} is unknown; known: {', '.join(SCOPES)}")

    @property
    def exact(self) -> bool:
        """Whether exactly the scheduled sparsity is reached: always."""
        return True

    def cut(self, scores: Sequence[Scores], sparsity: float) -> list[Cut]:
        """Return the cut of each target."""
        return self.cut_to_count(units_to_keep(scores, sparsity, self.cut_to_count), scores)

    def cut_to_count(self, keep: int, scores: Sequence[Scores]) -> list[Cut]:
        """Return the cuts that keep exactly ``keep`` units, distributed over targets by ``scope``."""
        return cut(keep, scores) if self.scope == "global" else cut_each(self._counts(keep, scores), scores)

    def cut_for_exchange(self, keep: int, exchange: float, scores: Sequence[Scores]) -> list[Cut]:
        """Return the cuts that prune a share of the units to keep, so that as many others can return.

        With the scope ``global`` the share is taken of all units together; with the others of each target's own, as in
        RigL: ``exchange * (1 - s_l) * N_l`` of a target with N_l units and the sparsity s_l.
        """
        if self.scope == "global":
            return super().cut_for_exchange(keep, exchange, scores)
        return cut_each([kept - round(exchange * kept) for kept in self._counts(keep, scores)], scores)

    def select_grown(self, count: int, growth_scores: Sequence[Scores], kept: Sequence[int]) -> list[Cut]:
        """Return the cuts that select ``count`` pruned units to return.

        They are distributed over targets so that all units kept afterwards are distributed by ``scope``.
        """
        if self.scope == "global":
            return cut(count, growth_scores)
        keep = sum(kept) + count
        highest = [k + s.candidates for k, s in zip(kept, growth_scores, strict=True)]
        counts = allocate(keep, self._proportions(growth_scores, keep), kept, highest)
        return cut_each([total - k for total, k in zip(counts, kept, strict=True)], growth_scores)

    def final_sparsity(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
        """Return the sparsity to reach at the end; with the scope ``layer`` the mean of the targets' own.

        Raises:
            ValueError: with the scope ``layer``, a target has no sparsity, or ``sparsity`` differs from their mean;
                with another scope, a target has its own.
        """
        if self.scope != "layer":
            return super().final_sparsity(targets, sparsity)
        if missing := [target.name for target in targets if target.sparsity is None]:
            raise ValueError(
                f"threshold topk: scope='layer' needs a sparsity for {missing[0]}; give one in targets, such as "
                f"targets={{{missing[0]!r}: 0.8}}, or '*' for the rest"
            )
        total = sum(target.numel for target in targets)
        mean = sum(target.numel * (target.sparsity or 0.0) for target in targets) / total
        if sparsity is not None and abs(sparsity - mean) * total > 1:
            raise ValueError(
                f"sparsity={sparsity!r} does not agree with the targets' own, which amount to {mean:.6g}; "
                "leave sparsity out with scope='layer'"
            )
        return mean

    def _counts(self, keep: int, scores: Sequence[Scores]) -> list[int]:
        """Return how many units each target keeps of ``keep`` in all, by a scope other than ``global``."""
        lowest, highest = [s.effective_min_kept for s in scores], [s.max_kept for s in scores]
        return allocate(keep, self._proportions(scores, keep), lowest, highest)

    def _proportions(self, scores: Sequence[Scores], keep: int) -> list[float]:
        """Return numbers proportional to the units that each target keeps of ``keep`` in all."""
        if self.scope == "uniform":
            return [float(s.units) for s in scores]
        if self.scope == "erk":
            return [sum(s.shape) / s.size for s in scores]
        units = sum(s.units for s in scores)
        pruned_at_end = sum(s.units * (s.sparsity or 0.0) for s in scores)
        progress = (units - keep) / pruned_at_end if pruned_at_end else 0.0
        return [s.units * (1 - min((s.sparsity or 0.0) * progress, 1.0)) for s in scores]


def allocate(keep: int, proportions: Sequence[float], lowest: Sequence[int], highest: Sequence[int]) -> list[int]:
    """Distribute ``keep`` units in the given proportions, each count between its lower and upper limit.

    The counts are ``clip(scale * proportion, lowest, highest)`` with the one scale that makes them add up to ``keep``,
    rounded to the largest remainders. Where the lower limits add up to more than ``keep``, they are returned.

    Args:
        keep: number of units to distribute.
        proportions: relative sizes, one per target.
        lowest: lower limit of each count.
        highest: upper limit of each count.

    Example:
        >>> allocate(10, [1.0, 1.0, 8.0], lowest=[1, 1, 1], highest=[100, 100, 4])
        [3, 3, 4]
    """
    keep = min(max(keep, sum(lowest)), sum(highest))

    def shares(scale: float) -> list[float]:
        return [min(max(scale * p, low), high) for p, low, high in zip(proportions, lowest, highest, strict=True)]

    # A proportion this small rounds to nothing beside the others, and keeps the scale finite.
    proportions = [max(p, 1e-9 * max(proportions), 1e-300) for p in proportions]
    low, high = 0.0, 2.0 * max(limit / p for limit, p in zip(highest, proportions, strict=True))
    while math.nextafter(low, high) < high:
        middle = (low + high) / 2
        low, high = (middle, high) if sum(shares(middle)) < keep else (low, middle)
    return _round_to_sum(keep, shares(high), lowest, highest)


def _round_to_sum(keep: int, exact: Sequence[float], lowest: Sequence[int], highest: Sequence[int]) -> list[int]:
    """Round counts to integers that add up to ``keep``, by the largest remainders and within the limits."""
    counts = [math.floor(x + 1e-9) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    while (left := keep - sum(counts)) != 0:
        step = 1 if left > 0 else -1
        limits = highest if left > 0 else lowest
        movable = [i for i in (by_remainder if left > 0 else by_remainder[::-1]) if counts[i] != limits[i]]
        for i in movable[: abs(left)]:
            counts[i] += step
    return counts
