"""What a threshold is: where the cut falls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from lightning_dynprune.base import Registry, convert_settings
from lightning_dynprune.selection import Cut, Scores, cut, cut_above
from lightning_dynprune.targets import Target


class Threshold(ABC):
    """Turns scores and the scheduled sparsity into one cut a target.

    Attributes:
        adjusts_scores: :meth:`adjust_scores` changes scores.
    """

    adjusts_scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Convert NumPy scalars among the settings to Python numbers; a subclass that checks its own calls this."""
        convert_settings(self)

    @property
    def exact(self) -> bool:
        """Whether as many units are kept as the sparsity leaves, wherever there are so many candidates."""
        return False

    @abstractmethod
    def cut(self, scores: Sequence[Scores], sparsity: float) -> list[Cut]:
        """Return where each target is cut.

        Args:
            scores: one entry a target.
            sparsity: the share of all units to have pruned.

        Raises:
            NonFiniteError: a score is not finite.
        """

    def cut_to_count(self, keep: int, scores: Sequence[Scores]) -> list[Cut]:
        """Return the cuts that keep ``keep`` units in all, the best-scored over all targets.

        Args:
            keep: how many units stay.
            scores: one entry a target.

        Raises:
            NonFiniteError: a score is not finite.
        """
        return cut(keep, scores)

    def select_grown(self, room: int, worth: Sequence[Scores], kept: Sequence[int]) -> list[Cut]:
        """Return which pruned units fill ``room``: the worthiest over all targets.

        Args:
            room: how many units return.
            worth: one entry a target, of which the pruned units are candidates.
            kept: units of each target that live already.

        Raises:
            NonFiniteError: a worth is not finite.
        """
        return cut(room, worth)

    def adjust_scores(self, scores: Tensor, lives: Tensor, seed: int, step: int) -> Tensor:
        """Return scores that heed which units live now; by default the scores as they are.

        Args:
            scores: of units.
            lives: bool, which of them live.
            seed: differs between targets, updates and runs, and is the same on every rank.
            step: optimizer steps done.
        """
        return scores

    def init_memory(self, target: Target) -> dict[str, Tensor]:
        """Return the tensors to remember of a target, of any shape; they are saved in checkpoints."""
        return {}

    def final_sparsity(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
        """Return the sparsity to end at, given what the user asked for (None: nothing).

        Raises:
            ValueError: the targets' settings do not go with this threshold.
        """
        if own := [target.name for target in targets if target.sparsity is not None]:
            raise ValueError(
                f"targets: a sparsity is set for {own[0]}, which only threshold topk with scope='layer' heeds; "
                "use that threshold, or leave the sparsity out"
            )
        return sparsity


class ValueThreshold(Threshold):
    """Cuts each target at a value that its data decide; the scheduled sparsity is the ceiling of what is pruned.

    Where the values would prune more than is due, the best-scored of those over all targets stay, so that exactly the
    scheduled sparsity is reached.
    """

    @abstractmethod
    def value(self, scores: Scores) -> float:
        """Return the score above which a unit of this target is kept."""

    def cut(self, scores: Sequence[Scores], sparsity: float) -> list[Cut]:
        """Return where each target is cut."""
        cuts = [cut_above(self.value(s), s) for s in scores]
        keep = units_kept(scores, sparsity)
        if sum(c.kept for c in cuts) >= keep:
            return cuts
        clipped = [replace(s, clip=c.value) for s, c in zip(scores, cuts, strict=True)]
        raised = cut(keep, clipped)
        return [replace(r, value=min(r.value, c.value)) for r, c in zip(raised, cuts, strict=True)]


def units_kept(scores: Sequence[Scores], sparsity: float) -> int:
    """Return how many units live where this share of all connections is pruned, rounded to the nearest."""
    units, size = sum(s.units for s in scores), scores[0].size if scores else 1
    total = units * size + sum(s.num_uncovered for s in scores)
    return max(units - int(sparsity * total / size + 0.5), 0)


THRESHOLDS: Registry[Threshold] = Registry("threshold", Threshold)
