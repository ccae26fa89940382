"""The schedules ``linear`` and ``cubic``, polynomials of the remaining time."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_dynprune.base import check_real
from lightning_dynprune.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("linear")
@dataclass(frozen=True)
class Linear(Schedule):
    """Goes from ``initial`` to ``final`` at a constant rate.

    The value is ``initial + (final - initial) x`` at progress x.

    Example:
        >>> Linear(0.8).curve(0.5)
        0.4
    """

    def curve(self, progress: float) -> float:
        """Return the value at ``progress``."""
        return self.interpolate(progress)


@SCHEDULES.register("cubic")
@dataclass(frozen=True)
class Cubic(Schedule):
    """Goes from ``initial`` to ``final`` fast at first and slowly at the end.

    The value is ``final + (initial - final) (1 - x)^power`` at progress x. It is the default schedule.

    Args:
        power: the exponent, above 0; the paper's is 3.

    Raises:
        ValueError: power is not above 0.

    Source: Zhu and Gupta, "To prune, or not to prune" (2017), equation 1.

    Example:
        >>> round(Cubic(0.8).curve(0.5), 6)
        0.7
    """

    power: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if check_real("schedule: power", self.power) <= 0:
            raise ValueError(f"schedule: power={self.power!r} is not accepted; give a number above 0")

    def curve(self, progress: float) -> float:
        """Return the value at ``progress``."""
        return self.interpolate(1 - (1 - progress) ** self.power)
