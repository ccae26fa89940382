"""The base classes of thresholds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from lightning_dynprune.base import Registry, convert_settings
from lightning_dynprune.selection import Cut, Scores, cut, cut_above, nearest_count
from lightning_dynprune.targets import Target


class Threshold(ABC):
    """Base class of thresholds, which decide how many units of each target are kept and at which score they are cut.

    A threshold is a frozen dataclass whose fields are its settings. Anything it must remember of a target is kept in
    that target's ``memory``, so one instance can serve several runs.

    Attributes:
        adjusts_scores: whether :meth:`adjust_scores` is overridden and has to be called.
    """

    adjusts_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Convert NumPy scalars among the settings to Python numbers.

        A subclass that checks its settings in ``__post_init__`` calls this first.
        """
        convert_settings(self)

    @property
    def exact(self) -> bool:
        """Whether exactly as many units are kept as the scheduled sparsity leaves, provided there are enough."""
        return False

    @abstractmethod
    def cut(self, scores: Sequence[Scores], sparsity: float) -> list[Cut]:
        """Return the cut of each target.

        Args:
            scores: the scores of the units, one entry per target.
            sparsity: share of all connections to prune.

        Returns:
            One cut per target, in the order of ``scores``.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """

    def cut_to_count(self, keep: int, scores: Sequence[Scores]) -> list[Cut]:
        """Return the cuts that keep exactly ``keep`` units over all targets; by default the highest-scored ones.

        Args:
            keep: number of units to keep.
            scores: the scores of the units, one entry per target.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """
        return cut(keep, scores)

    def cut_for_exchange(self, keep: int, exchange: float, scores: Sequence[Scores]) -> list[Cut]:
        """Return the cuts that prune a share of the units to keep, so that as many others can return.

        By default the share is taken of all units together, and the lowest-scored are pruned wherever they lie.

        Args:
            keep: number of units that are kept once others have returned.
            exchange: share of them to prune now.
            scores: the scores of the units, one entry per target.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """
        return self.cut_to_count(keep - round(exchange * keep), scores)

    def select_grown(self, count: int, growth_scores: Sequence[Scores], kept: Sequence[int]) -> list[Cut]:
        """Return the cuts that select ``count`` pruned units to return; by default the highest-scored ones.

        Args:
            count: number of units to return.
            growth_scores: scores for returning, one entry per target; its candidates are the pruned units.
            kept: number of units kept already, per target.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """
        return cut(count, growth_scores)

    def adjust_scores(self, scores: Tensor, kept: Tensor, seed: int, step: int) -> Tensor:
        """Return the scores to cut by, which may depend on the current mask; by default the scores as given.

        Args:
            scores: scores of some units of one target.
            kept: bool, shaped like ``scores``; True where the unit is kept now.
            seed: differs between targets, updates and runs, and is equal on all ranks.
            step: number of optimizer steps done.
        """
        return scores

    def init_memory(self, target: Target) -> dict[str, Tensor]:
        """Return the tensors to remember for a target, of any shape; checkpoints store them."""
        return {}

    def final_sparsity(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
        """Return the sparsity to reach at the end of the schedule.

        Args:
            targets: all targets of the run.
            sparsity: the sparsity that the user gave; None where none was given.

        Raises:
            ValueError: settings of the targets do not fit this threshold.
        """
        if own := [target.name for target in targets if target.sparsity is not None]:
            raise ValueError(
                f"targets: a sparsity is set for {own[0]}, which only threshold topk with scope='layer' uses; "
                "give threshold={'name': 'topk', 'scope': 'layer'}, or leave the sparsity of the target out"
            )
        return sparsity


class ValueThreshold(Threshold):
    """Base class of thresholds that cut each target at a score value.

    The scheduled sparsity is an upper limit. Where the values would prune more, the highest-scored of the units below
    them are kept as well, compared over all targets, so that exactly the scheduled sparsity is reached.
    """

    @abstractmethod
    def value(self, scores: Scores) -> float:
        """Return the score above which units of a target are kept."""

    def cut(self, scores: Sequence[Scores], sparsity: float) -> list[Cut]:
        """Return the cut of each target: at its value, or lower where the sparsity would be exceeded."""
        cuts = [cut_above(self.value(s), s) for s in scores]
        # Units above the values compare as infinitely good, so only those below compete for the places left.
        clipped = [replace(s, clip=c.value) for s, c in zip(scores, cuts, strict=True)]
        keep = units_to_keep(clipped, sparsity)
        if sum(c.kept for c in cuts) >= keep:
            return cuts
        lowered = cut(keep, clipped)
        return [replace(low, value=min(low.value, c.value)) for low, c in zip(lowered, cuts, strict=True)]


def units_to_keep(
    scores: Sequence[Scores],
    sparsity: float,
    cut_to_count: Callable[[int, Sequence[Scores]], list[Cut]] = cut,
) -> int:
    """Return the number of units to keep for a share of pruned connections, rounded to the nearest.

    Where the units of targets differ in size, the number depends on which units are kept.

    Args:
        scores: one entry per target; connections that no unit covers count as kept.
        sparsity: share of all connections to prune.
        cut_to_count: returns the cuts that keep a number of units.

    Raises:
        NonFiniteError: a score is NaN or infinite, where units differ in size.
    """
    units, size = sum(s.units for s in scores), scores[0].size if scores else 1
    if any(s.size != size for s in scores):
        return nearest_count(
            units, lambda count: _num_kept(cut_to_count(count, scores), scores), connections_to_keep(scores, sparsity)
        )
    total = units * size + sum(s.num_uncovered for s in scores)
    return max(units - int(sparsity * total / size + 0.5), 0)


def connections_to_keep(scores: Sequence[Scores], sparsity: float) -> float:
    """Return the number of connections to keep in units for a share of pruned connections, not rounded."""
    covered = sum(s.units * s.size for s in scores)
    return covered - sparsity * (covered + sum(s.num_uncovered for s in scores))


def _num_kept(cuts: Sequence[Cut], scores: Sequence[Scores]) -> int:
    return sum(c.kept * s.size for c, s in zip(cuts, scores, strict=True))


THRESHOLDS: Registry[Threshold] = Registry("threshold", Threshold)
