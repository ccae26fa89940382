"""What a schedule is: a curve, and the moments at which it is read."""

from __future__ import annotations

import copy
import math
import re
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from lightning_dynprune.base import Registry, check_real, convert_settings, is_number

Moment: TypeAlias = "int | float | str"

_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?)\s*", re.IGNORECASE)
_ACCEPTED = "an int (steps), a float in [0, 1] (share of training), '100 steps' or '2 epochs'"


@dataclass
class Clock:
    """How far training is.

    Attributes:
        step: optimizer steps done.
        epoch: epochs ended.
    """

    step: int = 0
    epoch: int = 0


@dataclass(frozen=True)
class Horizon:
    """How long training is; None where that is not known.

    Attributes:
        steps: optimizer steps of the whole training.
        steps_per_epoch: optimizer steps of one epoch.
        epochs: epochs of the whole training; counted from the other two where it is not given.
        trial_run: this is a short trial of a longer training, whose schedules end later.
    """

    steps: int | None = None
    steps_per_epoch: int | None = None
    epochs: int | None = None
    trial_run: bool = False

    def __post_init__(self) -> None:
        convert_settings(self)

    def length(self, unit: str) -> int | None:
        """Return how long training is in "steps" or "epochs"; None where that is not known."""
        if unit == "steps":
            return self.steps
        if self.epochs is None and self.steps is not None and self.steps_per_epoch:
            return math.ceil(self.steps / self.steps_per_epoch)
        return self.epochs


@dataclass(frozen=True)
class Span:
    """A schedule's moments as counts of one unit.

    Attributes:
        unit: "steps", or "epochs" where updates are placed on epoch events.
        begin: the first update.
        end: the last update.
        every: from one update to the next.
    """

    unit: str
    begin: int
    end: int
    every: int


@dataclass(frozen=True)
class Schedule(ABC):
    """When to update, and the value to have reached by then.

    The value runs from ``initial`` at ``begin`` to ``final`` at ``end`` and is held after; ``curve`` gives its shape.
    Updates are due at ``begin``, then ``every`` so often, and at ``end``. Updates follow an optimizer step; one at 0 is
    the start, before the first. The unit of ``every`` decides the event: steps follow batches, epochs follow the last
    batch of an epoch.

    Args:
        final: the value at ``end``; for the sparsity, in [0, 1).
        initial: the value before ``begin``.
        begin: moment of the first update: an int (steps), a float in [0, 1] (share of training), "100 steps" or
            "2 epochs".
        end: moment of the last update.
        every: time from one update to the next.

    Raises:
        TypeError: a moment or value of another kind.
        ValueError: a moment out of range.

    Attributes:
        can_decrease: a sparsity on it also falls, so that pruned connections return.
    """

    can_decrease: ClassVar[bool] = False

    final: float
    initial: float = 0.0
    begin: Moment = 0.25
    end: Moment = 0.75
    every: Moment = 0.01
    span: Span | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        convert_settings(self)
        check_real("schedule: final", self.final)
        check_real("schedule: initial", self.initial)
        for setting in ("begin", "end", "every"):
            _parse(setting, getattr(self, setting))

    @abstractmethod
    def curve(self, progress: float) -> float:
        """Return the value at ``progress``, which runs from 0 at ``begin`` to 1 at ``end``."""

    def interpolate(self, share: float) -> float:
        """Return the value ``share`` of the way from ``initial`` to ``final``."""
        return self.initial + (self.final - self.initial) * share

    def resolve(self, horizon: Horizon) -> Schedule:
        """Return the same schedule with its moments counted in steps or epochs.

        Raises:
            ValueError: a moment needs a horizon that is not known; the schedule ends before it begins or after
                training.
        """
        unit = "epochs" if _parse("every", self.every)[1] == "epochs" else "steps"
        begin = _count("begin", self.begin, unit, horizon)
        end = _count("end", self.end, unit, horizon)
        every = max(_count("every", self.every, unit, horizon), 1)
        if end < begin:
            raise ValueError(
                f"schedule: end={self.end!r} ({end} {unit}) lies before begin={self.begin!r} ({begin} {unit}); "
                "give an end at or after the beginning"
            )
        last = horizon.length(unit)
        if last is not None and end > last and horizon.trial_run:
            warnings.warn(
                f"schedule: end={self.end!r} lies after this trial, which ends at {last} {unit}; it is drawn together "
                "into one update at its end",
                stacklevel=2,
            )
            begin = end = last
        if last is not None and end > last:
            raise ValueError(
                f"schedule: end={self.end!r} ({end} {unit}) lies after training, which ends at {last} {unit}; "
                f"give an end of at most {last} {unit} or train longer"
            )
        resolved = copy.copy(self)
        object.__setattr__(resolved, "span", Span(unit, begin, end, every))
        return resolved

    def is_due_at_start(self, clock: Clock) -> bool:
        """Return whether an update is due before the first step, and this is the moment."""
        return clock.step == 0 and self._resolved().begin == 0 and self.value(clock) > 0

    def is_due(self, clock: Clock, unit: str = "steps") -> bool:
        """Return whether an update is due at this moment of ``unit`` ("steps" or "epochs")."""
        span = self._resolved()
        if unit != span.unit:
            return False
        now = clock.step if unit == "steps" else clock.epoch
        if not span.begin <= now <= span.end:
            return False
        return (now - span.begin) % span.every == 0 or now == span.end

    def value(self, clock: Clock) -> float:
        """Return the value at this moment."""
        span = self._resolved()
        now = clock.step if span.unit == "steps" else clock.epoch
        if now < span.begin:
            return self.initial
        if now >= span.end:
            return self.final
        return self.curve((now - span.begin) / (span.end - span.begin))

    def _resolved(self) -> Span:
        if self.span is None:
            raise RuntimeError("this schedule is not resolved; call schedule.resolve(Horizon(...)) first")
        return self.span


SCHEDULES: Registry[Schedule] = Registry("schedule", Schedule)


def _parse(setting: str, moment: Any) -> tuple[float, str]:
    """Return a moment as (amount, "steps" | "epochs" | "share")."""
    if isinstance(moment, bool) or not isinstance(moment, (int, float, str)):
        raise TypeError(f"schedule: {setting}={moment!r} is not accepted; give {_ACCEPTED}")
    if isinstance(moment, str):
        match = _TEXT.fullmatch(moment)
        if match is None:
            raise ValueError(f"schedule: {setting}={moment!r} has an unknown unit; give {_ACCEPTED}")
        amount, unit = float(match[1]), "steps" if match[2].lower().startswith("step") else "epochs"
        if not amount.is_integer() and setting == "every":
            raise ValueError(f"schedule: {setting}={moment!r} is no whole number of {unit}; give {_ACCEPTED}")
    else:
        unit = "steps" if isinstance(moment, int) else "share"
        amount = float(moment) if is_number(moment) else math.inf
    if not (math.isfinite(amount) and amount >= 0) or (unit == "share" and amount > 1):
        raise ValueError(f"schedule: {setting}={moment!r} is out of range; give {_ACCEPTED}")
    if setting == "every" and amount == 0:
        raise ValueError(f"schedule: every={moment!r} would never pass; give {_ACCEPTED}, above 0")
    return amount, unit


def _count(setting: str, moment: Moment, unit: str, horizon: Horizon) -> int:
    """Return a moment as a count of ``unit``."""
    amount, given = _parse(setting, moment)
    if given == unit:
        return round(amount)
    if given == "share":
        length = horizon.length(unit)
        if length is None:
            raise ValueError(
                f"schedule: {setting}={moment!r} is a share of training, whose length is not known; "
                f"give {setting} in steps, such as '1000 steps', or limit training by max_steps or max_epochs"
            )
        return round(amount * length)
    if horizon.steps_per_epoch is None:
        raise ValueError(
            f"schedule: {setting}={moment!r} cannot be counted in {unit}, as the steps of an epoch are not known; "
            f"give begin, end and every all in steps or all in epochs"
        )
    if unit == "steps":
        return round(amount * horizon.steps_per_epoch)
    return round(amount / horizon.steps_per_epoch)
