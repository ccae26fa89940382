"""The threshold ``mean``: a share of the mean score."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_dynprune.base import check_real
from lightning_dynprune.schedules import Schedule
from lightning_dynprune.selection import Scores, moments
from lightning_dynprune.thresholds.base import THRESHOLDS, ValueThreshold


@THRESHOLDS.register("mean")
@dataclass(frozen=True)
class Mean(ValueThreshold):
    """Keeps the units that score above a share of their target's mean score: ``score > mean(score) (1 - rate)``.

    The mean is taken over the units that are still kept, so every update prunes further, until the scheduled sparsity,
    which is an upper limit, is reached.

    Args:
        rate: how far below the mean the cut is, as a share of the mean, at most 1; a number or a schedule.

    Raises:
        TypeError: rate is neither a finite number nor a schedule.
        ValueError: rate is above 1.

    Example:
        >>> import torch
        >>> Mean(0.5).cut([Scores.from_tensor("w", torch.tensor([1.0, 3.0, 8.0]))], sparsity=0.9)
        [Cut(value=2.0, ties=0, kept=2)]
    """

    rate: float | Schedule = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rate, Schedule):
            check_real("threshold mean: rate", self.rate, high=1.0)

    def value(self, scores: Scores) -> float:
        """Return ``mean(score) (1 - rate)``."""
        assert not isinstance(self.rate, Schedule)
        return moments(scores)[0] * (1 - self.rate)
