"""A threshold: cut each target at a multiple of the root mean square of its scores."""

import math
from dataclasses import dataclass

from lightning_dynprune.selection import Scores, moments
from lightning_dynprune.thresholds import THRESHOLDS, ValueThreshold


@THRESHOLDS.register("root_mean_square")
@dataclass(frozen=True)
class RootMeanSquare(ValueThreshold):
    """Keeps the connections that score above ``factor * sqrt(mean(score^2))``."""

    factor: float = 1.0

    def value(self, scores: Scores) -> float:
        """Return the score above which a connection of this target is kept."""
        mean, std = moments(scores)
        return self.factor * math.hypot(mean, std)
