"""What a threshold is: where the cut falls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from lightning_dynprune.registry import Registry
from lightning_dynprune.scores import Scores
from lightning_dynprune.selection import Cut, cut, cut_above
from lightning_dynprune.targets import Target


class Threshold(ABC):
    """Turns scores and the scheduled sparsity into one cut a target."""

    @abstractmethod
    def cut(self, scores: Sequence[Scores], sparsity: float) -> list[Cut]:
        """Return where each target is cut.

        Args:
            scores: one entry a target.
            sparsity: the share of all units to have pruned.

        Raises:
            NonFiniteError: a score is not finite.
        """

    def planned(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
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
    """Return how many units live at a sparsity, rounded to the nearest."""
    total = sum(s.units for s in scores)
    return total - int(sparsity * total + 0.5)


THRESHOLDS: Registry[Threshold] = Registry("threshold", Threshold)
