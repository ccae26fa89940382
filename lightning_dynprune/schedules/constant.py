"""The schedules ``constant`` and ``one_shot``, which jump to the final value."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_dynprune.base import convert_settings
from lightning_dynprune.schedules.base import SCHEDULES, Moment, Schedule


@SCHEDULES.register("constant")
@dataclass(frozen=True)
class Constant(Schedule):
    """Holds ``final`` from ``begin`` on, with updates until ``end``.

    It suits strategies that exchange connections at a constant sparsity, such as ``rigl``.

    Example:
        >>> Constant(0.8).curve(0.0)
        0.8
    """

    begin: Moment = 0
    end: Moment = 0.75

    def curve(self, progress: float) -> float:
        """Return ``final`` at any progress."""
        return self.final


@SCHEDULES.register("one_shot")
@dataclass(frozen=True)
class OneShot(Schedule):
    """Makes one update, at ``begin``, that prunes to ``final``.

    Example:
        >>> from lightning_dynprune.schedules import Clock, Horizon
        >>> schedule = OneShot(0.8, begin="10 steps").resolve(Horizon())
        >>> [step for step in range(100) if schedule.is_due(Clock(step))]
        [10]
    """

    end: Moment = field(default=0, init=False, repr=False)
    every: Moment = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        convert_settings(self)
        object.__setattr__(self, "end", self.begin)
        # With begin in epochs, the update follows the end of an epoch.
        in_epochs = isinstance(self.begin, str) and "epoch" in self.begin
        object.__setattr__(self, "every", "1 epoch" if in_epochs else 1)
        super().__post_init__()

    def curve(self, progress: float) -> float:
        """Return ``final`` at any progress."""
        return self.final
