"""The threshold ``fixed``: a score given as a number."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_dynprune.base import check_real
from lightning_dynprune.schedules import Schedule
from lightning_dynprune.selection import Scores
from lightning_dynprune.thresholds.base import THRESHOLDS, ValueThreshold


@THRESHOLDS.register("fixed")
@dataclass(frozen=True)
class Fixed(ValueThreshold):
    """Keeps the units that score above ``theta``: ``keep = score > theta``.

    The scheduled sparsity is an upper limit, see :class:`~lightning_dynprune.thresholds.ValueThreshold`. Soft movement
    pruning uses this threshold with the strategy ``movement``.

    Args:
        theta: the score to exceed; a number or a schedule.

    Raises:
        TypeError: theta is neither a finite number nor a schedule.

    Example:
        >>> import torch
        >>> Fixed(0.3).cut([Scores.from_tensor("w", torch.tensor([0.5, 0.3, 0.1]))], sparsity=0.9)
        [Cut(value=0.3, ties=0, kept=1)]
    """

    theta: float | Schedule

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.theta, Schedule):
            check_real("threshold fixed: theta", self.theta)

    def value(self, scores: Scores) -> float:
        """Return theta."""
        assert not isinstance(self.theta, Schedule)
        return float(self.theta)
