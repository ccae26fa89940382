"""Alternating dense and sparse phases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_dynprune.schedules.base import SCHEDULES, Clock, Moment, Schedule


@SCHEDULES.register("acdc")
@dataclass(frozen=True)
class ACDC(Schedule):
    """``final`` and ``initial`` in turns of ``every`` from ``begin`` on, and ``final`` for good from ``end`` on.

    In a dense phase every connection is back, at zero, and trains; the next sparse phase prunes anew. The last dense
    phase runs up to ``end``. Defaults as published, as shares of training: dense until 0.1, phases of 0.05, the last
    dense phase from 0.75 to 0.85.

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
        """Return ``final``: what the phases alternate with, whatever the progress."""
        return self.final

    def value(self, clock: Clock) -> float:
        """Return the value at this moment."""
        span = self._resolved()
        now = clock.step if span.unit == "steps" else clock.epoch
        if now < span.begin:
            return self.initial
        phase = (now - span.begin) // span.every
        sparse = phase % 2 == 0 and span.begin + (phase + 1) * span.every < span.end
        return self.final if sparse or now >= span.end else self.initial
