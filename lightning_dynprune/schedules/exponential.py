"""The schedule ``exponential``: a constant share of the kept connections at every update."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_dynprune.base import check_share
from lightning_dynprune.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("exponential")
@dataclass(frozen=True)
class Exponential(Schedule):
    """Lowers the density by a constant factor per time.

    The value is ``1 - (1 - initial) ((1 - final) / (1 - initial))^x`` at progress x.

    Raises:
        ValueError: final or initial is outside [0, 1).

    Source: the continuous form of the rounds of Han et al. (2015) and Frankle and Carbin (2019), each of which prunes a
    fixed share of the kept connections.

    Example:
        >>> round(Exponential(0.75).curve(0.5), 6)
        0.5
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("schedule: final", self.final)
        check_share("schedule: initial", self.initial)

    def curve(self, progress: float) -> float:
        """Return the sparsity at ``progress``."""
        start = 1 - self.initial
        return 1 - start * float(((1 - self.final) / start) ** progress)
