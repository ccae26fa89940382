"""A schedule that starts and ends gently."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_dynprune.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("cosine")
@dataclass(frozen=True)
class Cosine(Schedule):
    """``final + (initial - final) (1 + cos(pi x)) / 2`` over the progress x.

    Example:
        >>> round(Cosine(0.8).curve(0.5), 6)
        0.4
    """

    def curve(self, progress: float) -> float:
        """Return the value at ``progress``."""
        return self.interpolate((1 - math.cos(math.pi * progress)) / 2)
