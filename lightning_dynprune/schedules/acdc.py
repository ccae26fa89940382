"""The schedule ``acdc``: alternating sparse and dense phases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_dynprune.schedules.base import SCHEDULES, Clock, Moment, Schedule


@SCHEDULES.register("acdc")
@dataclass(frozen=True)
class ACDC(Schedule):
    """Alternates between ``final`` and ``initial`` in phases of length ``every``, and holds ``final`` from ``end`` on.

    The first phase, at ``begin``, is sparse. In a dense phase all connections return, at zero, and train; the next
    sparse phase prunes again. The last dense phase lasts until ``end``. The defaults are those of the paper as shares
    of training: dense until 0.1, phases of 0.05, the last dense phase from 0.75 to 0.85.

    Source: Peste et al., "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks" (2021),
    section 4.

    Example:
        >>> from lightning_dynprune.schedules import Clock, Horizon
        >>> schedule = ACDC(0.9).resolve(Horizon(steps=100))
        >>> [(step, schedule.value(Clock(step))) for step in (9, 10, 15, 20, 70, 75, 80, 85)]
        [(9, 0.0), (10, 0.9), (15, 0.0), (20, 0.9), (70, 0.9), (75, 0.0), (80, 0.0), (85, 0.9)]
    """

    can_decrease: ClassVar[bool] = True
    begin: Moment = 0.1
    end: Moment = 0.85
    every: Moment = 0.05

    def curve(self, progress: float) -> float:
        """Return ``final``, the value of sparse phases, at any progress."""
        return self.final

    def value(self, clock: Clock) -> float:
        """Return ``final`` in sparse phases and ``initial`` in dense ones."""
        span = self._counts()
        now = clock.step if span.unit == "steps" else clock.epoch
        if now < span.begin:
            return self.initial
        phase = (now - span.begin) // span.every
        sparse = phase % 2 == 0 and span.begin + (phase + 1) * span.every < span.end
        return self.final if sparse or now >= span.end else self.initial
