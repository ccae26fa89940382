"""The base class of schedules: a curve over training, and the moments of updates."""

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
    """The progress of training.

    Attributes:
        step: number of optimizer steps done.
        epoch: number of epochs completed.
    """

    step: int = 0
    epoch: int = 0


@dataclass(frozen=True)
class Horizon:
    """The length of training; a field that is not known is None.

    Attributes:
        steps: number of optimizer steps of the whole training.
        steps_per_epoch: number of optimizer steps of one epoch.
        epochs: number of epochs of the whole training; computed from the other two where it is None.
        trial_run: whether this is a short trial of a longer training, in which schedules may end later.
    """

    steps: int | None = None
    steps_per_epoch: int | None = None
    epochs: int | None = None
    trial_run: bool = False

    def __post_init__(self) -> None:
        convert_settings(self)

    def length(self, unit: str) -> int | None:
        """Return the length of training in "steps" or "epochs"; None where it is not known."""
        if unit == "steps":
            return self.steps
        if self.epochs is None and self.steps is not None and self.steps_per_epoch:
            return math.ceil(self.steps / self.steps_per_epoch)
        return self.epochs


@dataclass(frozen=True)
class Span:
    """The moments of a schedule as counts of one unit.

    Attributes:
        unit: "steps" where updates follow optimizer steps, "epochs" where they follow the ends of epochs.
        begin: the moment of the first update.
        end: the moment of the last update.
        every: the distance between updates.
    """

    unit: str
    begin: int
    end: int
    every: int


@dataclass(frozen=True)
class Schedule(ABC):
    """Base class of schedules, which decide when updates are due and the value of a setting at each moment.

    The value goes from ``initial`` at ``begin`` to ``final`` at ``end`` along ``curve``, and stays there. Updates are
    due at ``begin``, then every ``every``, and at ``end``. An update follows an optimizer step; an update at 0 comes
    before the first step. With ``every`` in epochs, updates follow the last batch of an epoch.

    Args:
        final: the value at ``end``; a sparsity is in [0, 1).
        initial: the value before ``begin``.
        begin: moment of the first update: an int (steps), a float in [0, 1] (share of training), "100 steps" or
            "2 epochs".
        end: moment of the last update, given likewise.
        every: distance between updates, given likewise.

    Raises:
        TypeError: a moment or value is of the wrong type.
        ValueError: a moment is out of range.

    Attributes:
        can_decrease: whether the value can fall, so that a sparsity on this schedule lets pruned connections return.
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
        """Return the value at ``progress``, which goes from 0 at ``begin`` to 1 at ``end``."""

    def interpolate(self, fraction: float) -> float:
        """Return the value at a fraction of the way from ``initial`` to ``final``."""
        return self.initial + (self.final - self.initial) * fraction

    def resolve(self, horizon: Horizon) -> Schedule:
        """Return this schedule with its moments converted to counts of steps or epochs.

        Args:
            horizon: the length of training.

        Raises:
            ValueError: converting a moment needs a length that is not known, or the schedule ends before it begins or
                after training.
        """
        unit = "epochs" if _parse("every", self.every)[1] == "epochs" else "steps"
        begin = _count("begin", self.begin, unit, horizon)
        end = _count("end", self.end, unit, horizon)
        every = max(_count("every", self.every, unit, horizon), 1)
        if end < begin:
            raise ValueError(
                f"schedule: end={self.end!r} ({end} {unit}) lies before begin={self.begin!r} ({begin} {unit}); "
                "give an end at or after begin"
            )
        last = horizon.length(unit)
        if last is not None and end > last and horizon.trial_run:
            warnings.warn(
                f"schedule: end={self.end!r} lies after this trial run, which ends at {last} {unit}; all updates are "
                "replaced by one at its end",
                stacklevel=2,
            )
            begin = end = last
        if last is not None and end > last:
            raise ValueError(
                f"schedule: end={self.end!r} ({end} {unit}) lies after training, which ends at {last} {unit}; "
                f"give an end of at most {last} {unit} or train longer"
            )
        schedule = copy.copy(self)
        object.__setattr__(schedule, "span", Span(unit, begin, end, every))
        return schedule

    def is_due_at_start(self, clock: Clock) -> bool:
        """Return whether training has not begun and an update is due before its first step."""
        return clock.step == 0 and self._counts().begin == 0 and self.value(clock) > 0

    def is_due(self, clock: Clock, unit: str = "steps") -> bool:
        """Return whether an update is due now, after a step (unit "steps") or after an epoch (unit "epochs")."""
        span = self._counts()
        if unit != span.unit:
            return False
        now = clock.step if unit == "steps" else clock.epoch
        if not span.begin <= now <= span.end:
            return False
        return (now - span.begin) % span.every == 0 or now == span.end

    def value(self, clock: Clock) -> float:
        """Return the value now."""
        span = self._counts()
        now = clock.step if span.unit == "steps" else clock.epoch
        if now < span.begin:
            return self.initial
        if now >= span.end:
            return self.final
        return self.curve((now - span.begin) / (span.end - span.begin))

    def _counts(self) -> Span:
        if self.span is None:
            raise RuntimeError(
                "this schedule has no step counts; call schedule.resolve(Horizon(...)) and use the schedule it returns"
            )
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
            raise ValueError(f"schedule: {setting}={moment!r} is not a whole number of {unit}; give {_ACCEPTED}")
    else:
        unit = "steps" if isinstance(moment, int) else "share"
        amount = float(moment) if is_number(moment) else math.inf
    if not (math.isfinite(amount) and amount >= 0) or (unit == "share" and amount > 1):
        raise ValueError(f"schedule: {setting}={moment!r} is out of range; give {_ACCEPTED}")
    if setting == "every" and amount == 0:
        raise ValueError(f"schedule: every={moment!r} never advances; give {_ACCEPTED}, above 0")
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
