"""The schedule ``cosine``: half a cosine wave."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_dynprune.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("cosine")
@dataclass(frozen=True)
class Cosine(Schedule):
    """Goes from ``initial`` to ``final`` on half a cosine wave, slowly at the start and at the end.

    The value is ``final + (initial - final) (1 + cos(pi x)) / 2`` at progress x.

    Example:
        >>> round(Cosine(0.8).curve(0.5), 6)
        0.4
    """

    def curve(self, progress: float) -> float:
        """Return the value at ``progress``."""
        return self.interpolate((1 - math.cos(math.pi * progress)) / 2)
