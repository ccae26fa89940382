"""The progress of a training, and the updates that are due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lightning_dynprune.journal import Update
from lightning_dynprune.schedules import Clock, Schedule

Position = tuple[int, int, int, int, int, bool]


class Progress:
    """Counts steps, epochs and updates, and tells which updates a schedule has due.

    Args:
        schedule: of the sparsity, resolved.

    Attributes:
        clock: optimizer steps and epochs so far.
        paused: the schedule stands still.
        paused_for: steps and epochs that passed while it stood still.
        has_started: the update before the first step has been made, or is not made any more.
        updates: number of updates of the masks.
        scheduled_sparsity: the sparsity that the schedule asked for at the last update.
        previous_sparsity: the sparsity that an earlier training reached; the schedule is followed from there on.
        requested_sparsity: the sparsity of an update that is due after the next step, whatever the schedule; else None.
        last_update: the last update; None before the first.

    Example:
        >>> from lightning_dynprune.schedules import Horizon, Linear
        >>> progress = Progress(Linear(0.5, begin=1, end=3, every=2).resolve(Horizon()))
        >>> [progress.count_step() for _ in range(4)]
        [True, False, True, False]
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.clock = Clock()
        self.paused = False
        self.paused_for = Clock()
        self.has_started = False
        self.updates = 0
        self.scheduled_sparsity = schedule.initial
        self.previous_sparsity = 0.0
        self.requested_sparsity: float | None = None
        self.last_update: Update | None = None

    @property
    def schedule_clock(self) -> Clock:
        """The clock without the time that the schedule was paused for."""
        return Clock(self.clock.step - self.paused_for.step, self.clock.epoch - self.paused_for.epoch)

    @property
    def has_ended(self) -> bool:
        """Whether the schedule's last update is done."""
        span = self._schedule.span
        clock = self.schedule_clock
        return span is not None and (clock.step if span.unit == "steps" else clock.epoch) >= span.end

    @property
    def starts(self) -> bool:
        """Whether the update that comes before the first step is due."""
        return not self.has_started and self._schedule.is_due_at_start(self.clock)

    @property
    def due_sparsity(self) -> float:
        """The sparsity that an update reaches now."""
        return max(self._schedule.value(self.schedule_clock), self.previous_sparsity, self.requested_sparsity or 0.0)

    def position(self) -> Position:
        """Return where the training stands, for :meth:`go_back`."""
        clock, paused = self.clock, self.paused_for
        return self.updates, clock.step, clock.epoch, paused.step, paused.epoch, self.has_started

    def go_back(self, position: Position) -> None:
        """Take back what was counted since, unless an update was made."""
        updates, step, epoch, paused_step, paused_epoch, has_started = position
        if self.updates == updates:
            self.clock.step, self.clock.epoch = step, epoch
            self.paused_for, self.has_started = Clock(paused_step, paused_epoch), has_started

    def count_start(self) -> bool:
        """Note that the update before the first step is made; return True, as it is due."""
        self.has_started = True
        return True

    def count_step(self) -> bool:
        """Count an optimizer step; return whether an update is due after it."""
        self.clock.step += 1
        self.paused_for.step += self.paused
        if self.requested_sparsity is not None:
            return True
        return not self.paused and self._schedule.is_due(self.schedule_clock, "steps")

    def count_epoch(self) -> bool:
        """Count an epoch; return whether an update is due after it."""
        self.clock.epoch += 1
        self.paused_for.epoch += self.paused
        return not self.paused and self._schedule.is_due(self.schedule_clock, "epochs")

    def updates_next(self, ending_epoch: bool = False) -> bool:
        """Return whether an update is due once the current step is done.

        Args:
            ending_epoch: the current step is the last of its epoch.
        """
        if self.requested_sparsity is not None:
            return True
        if self.paused:
            return False
        if self.starts:
            return True
        clock = self.schedule_clock
        after = Clock(clock.step + 1, clock.epoch + ending_epoch)
        return self._schedule.is_due(after, "steps") or (ending_epoch and self._schedule.is_due(after, "epochs"))

    def count_update(self, update: Update) -> None:
        """Count an update that has been made, once."""
        if self.last_update is not update:
            updates, sparsity = self.updates + 1, update.scheduled_sparsity
            self.updates, self.scheduled_sparsity, self.last_update = updates, sparsity, update
            self.requested_sparsity = None

    def state_dict(self) -> dict[str, Any]:
        """Return the entries to resume from."""
        return {
            "clock": asdict(self.clock),
            "paused_for": asdict(self.paused_for),
            "paused": self.paused,
            "updates": self.updates,
            "scheduled_sparsity": self.scheduled_sparsity,
            "previous_sparsity": self.previous_sparsity,
            "requested_sparsity": self.requested_sparsity,
            "last_update": None if self.last_update is None else asdict(self.last_update),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the entries of :meth:`state_dict`, which have been validated."""
        self.clock.step, self.clock.epoch = state["clock"]["step"], state["clock"]["epoch"]
        self.paused_for = Clock(**state["paused_for"])
        self.paused = state["paused"]
        self.updates = state["updates"]
        self.scheduled_sparsity = state["scheduled_sparsity"]
        self.previous_sparsity = state["previous_sparsity"]
        self.requested_sparsity = state["requested_sparsity"]
        self.last_update = None if state["last_update"] is None else Update(**state["last_update"])
        self.has_started = self.last_update is not None
