"""A threshold relative to the mean score."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_dynprune.base import check_real
from lightning_dynprune.schedules import Schedule
from lightning_dynprune.selection import Scores, moments
from lightning_dynprune.thresholds.base import THRESHOLDS, ValueThreshold


@THRESHOLDS.register("mean")
@dataclass(frozen=True)
class Mean(ValueThreshold):
    """Keeps what scores above ``mean(score) (1 - rate)``, the mean over the target's living units.

    Each update looks at what still lives, so pruning goes on until the scheduled sparsity, its ceiling, is reached.

    Args:
        rate: how far under the mean the cut falls, at most 1; a number or a schedule.

    Raises:
        TypeError: rate is no number.
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
