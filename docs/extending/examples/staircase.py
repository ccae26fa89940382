"""A schedule: raise the sparsity in equal stairs and hold it between them."""

import math
from dataclasses import dataclass

from lightning_dynprune.schedules import SCHEDULES, Schedule


@SCHEDULES.register("staircase")
@dataclass(frozen=True)
class Staircase(Schedule):
    """Rises from ``initial`` to ``final`` in ``stairs`` equal stairs, the last of them at ``end``."""

    stairs: int = 4

    def curve(self, progress: float) -> float:
        """Return the sparsity at ``progress``, which runs from 0 at ``begin`` to 1 at ``end``."""
        return self.interpolate(math.floor(progress * self.stairs) / self.stairs)
