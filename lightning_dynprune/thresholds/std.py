"""The threshold ``std``: a number of standard deviations from the mean score."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_dynprune.base import check_real
from lightning_dynprune.schedules import Schedule
from lightning_dynprune.selection import Scores, moments
from lightning_dynprune.thresholds.base import THRESHOLDS, ValueThreshold


@THRESHOLDS.register("std")
@dataclass(frozen=True)
class Std(ValueThreshold):
    """Keeps the units that score above ``mean(score) + c std(score)`` of their target.

    Mean and standard deviation are taken over the units that are still kept. The scheduled sparsity is an upper limit.

    Args:
        c: number of standard deviations above the mean, negative for below; a number or a schedule.

    Raises:
        TypeError: c is neither a finite number nor a schedule.

    Source: the quality parameter of Han et al., "Learning both Weights and Connections" (2015), section 3.

    Example:
        >>> import torch
        >>> Std(0.0).cut([Scores.from_tensor("w", torch.tensor([1.0, 2.0, 6.0]))], sparsity=0.9)
        [Cut(value=3.0, ties=0, kept=1)]
    """

    c: float | Schedule = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.c, Schedule):
            check_real("threshold std: c", self.c)

    def value(self, scores: Scores) -> float:
        """Return ``mean(score) + c std(score)``."""
        assert not isinstance(self.c, Schedule)
        mean, std = moments(scores)
        return mean + self.c * std
