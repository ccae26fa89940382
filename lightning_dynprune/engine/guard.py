"""The accuracy guard: stops pruning where a validated metric falls too far, and may prune on where it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_dynprune.base import check_count, check_real, convert_settings, is_number, is_whole
from lightning_dynprune.engine.pruner import Pruner

MODES = ("max", "min")
STATES = ("watching", "recovering", "holding", "stopped")
_HELPS = 0.75  # a denser mask helps if at most this share is left of what was missing to the limit


@dataclass
class AccuracyGuard:
    """Compares a validated metric with that of the dense network, and pauses or undoes pruning that costs too much.

    The reference is the value of the dense network at the same step, from ``control``; without it ``reference``, or the
    best value validated before the first update. If the metric falls more than ``max_drop`` short of it, the schedule
    pauses and training continues. If the metric has not recovered after ``patience`` validations, the masks of the last
    validation within the limit are restored, with the values that were cut since, and the schedule stays paused. If
    that helps, but not enough, the masks of the validation before are restored, and so on; if it does not help, pruning
    is not the cause, and no masks are restored any more. With ``until_limit`` the sparsity rises further once the
    schedule has ended, as long as the
    metric stays within the limit. Every decision is a note in the journal.

    Args:
        monitor: name of the metric as the LightningModule logs it in validation.
        max_drop: largest accepted distance from the reference, in the unit of the metric.
        mode: "max" if higher is better, "min" if lower is.
        reference: the metric of the dense network; None: the best value validated before the first update.
        patience: validations to wait for the metric to recover.
        until_limit: prune on after the end of the schedule.
        raise_by: share of the remaining connections that is pruned at each validation after that, above 0 and below 1.
        control: the metric of a dense training of the same network at its validations: a mapping from optimizer steps
            to values, or pairs of both. A value is compared with the last one up to its step, so that overfitting,
            which the dense network shows too, is not taken for damage by pruning.

    Raises:
        TypeError: a setting of another kind.
        ValueError: a setting out of range.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(10, 1)
        >>> pruner = Pruner(net, sparsity=0.9, strategy="magnitude", schedule={"name": "one_shot", "begin": 2})
        >>> guard = AccuracyGuard(max_drop=0.01, patience=1)
        >>> guard.judge(0.95, pruner)
        >>> _ = pruner.tick(), pruner.tick()
        >>> guard.judge(0.90, pruner)
        'step 2: val_acc 0.9 is 0.05 short of the dense 0.95, limit 0.01: pruning pauses at sparsity 0.9000'
        >>> guard.judge(0.91, pruner)  # doctest: +ELLIPSIS
        'step 2: val_acc 0.91 has not recovered in 1 validation: back to the masks of step 0, sparsity 0.0000, ...'
    """

    monitor: str = "val_acc"
    max_drop: float = 0.01
    mode: str = "max"
    reference: float | None = None
    patience: int = 2
    until_limit: bool = False
    raise_by: float = 0.2
    control: Mapping[int, float] | Sequence[tuple[int, float]] | None = None
    _points: tuple[tuple[int, float], ...] = field(default=(), init=False, repr=False)
    _best: float | None = field(default=None, init=False, repr=False)
    _good: list[int] = field(default_factory=list, init=False, repr=False)
    _waited: int = field(default=0, init=False, repr=False)
    _state: str = field(default="watching", init=False, repr=False)
    _least_drop: float | None = field(default=None, init=False, repr=False)
    _restored_at_drop: float | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        convert_settings(self)
        if not isinstance(self.monitor, str) or not self.monitor:
            raise TypeError(f"guard: monitor={self.monitor!r} is not accepted; give the name of a logged metric")
        check_real("guard: max_drop", self.max_drop, 0)
        if self.mode not in MODES:
            raise ValueError(f"guard: mode={self.mode!r} is unknown; known: {', '.join(MODES)}")
        if self.reference is not None:
            check_real("guard: reference", self.reference)
        check_count("guard: patience", self.patience)
        check_real("guard: raise_by", self.raise_by, 1e-6, 1 - 1e-6)
        self._points = _checked_control(self.control)
        self._best = self.reference

    def judge(self, value: float, pruner: Pruner, left: int | None = None) -> str | None:
        """Pause, resume, undo or extend the pruning, given a validated value.

        Args:
            value: of the metric, with the present masks.
            pruner: prunes the validated network.
            left: validations that are still to come; None if unknown. With fewer than ``patience`` left the guard
                neither waits nor prunes further.

        Returns:
            The decision in words; None if nothing changed.

        Raises:
            RuntimeError: the network is pruned already, and no value was validated before.
        """
        value = float(value)  # a NumPy scalar must not reach the checkpoint
        if not pruner.updates:
            if self.reference is None and not math.isnan(value):
                self._best = value if self._best is None else self._better(value, self._best)
            return None
        reference = self._reference_at(pruner.clock.step)
        drop = reference - value if self.mode == "max" else value - reference
        # NaN compares as False, so it counts as outside the limit.
        decision = (
            self._within_limit(value, pruner, left)
            if drop <= self.max_drop
            else self._beyond_limit(value, reference, drop, pruner, left)
        )
        if decision is None:
            return None
        decision = f"step {pruner.clock.step}: {decision}"
        if pruner.journal is not None:
            pruner.journal.note(pruner.clock.step, decision)
        return decision

    @property
    def holds(self) -> bool:
        """Whether masks have been restored and pruning has stopped for good."""
        return self._state in ("holding", "stopped")

    def begin_fit(self, keep_reference: bool = False) -> None:
        """Forget all validations of an earlier training.

        Args:
            keep_reference: keep the best value of the dense network, which the new training finds pruned.
        """
        best = self._best if keep_reference else self.reference
        self.load_state_dict({"best": best, "good": [], "waited": 0, "state": "watching"})

    def state_dict(self) -> dict[str, Any]:
        """Return all there is to resume from."""
        return {
            "best": self._best,
            "good": list(self._good),
            "waited": self._waited,
            "state": self._state,
            "least_drop": self._least_drop,
            "restored_at_drop": self._restored_at_drop,
        }

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise where a state is not what :meth:`state_dict` returns.

        Raises:
            ValueError: the state is damaged.
        """
        if not _is_state(state):
            raise ValueError("checkpoint: the state of the guard is not what it writes; the file is damaged")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a :meth:`state_dict`.

        Raises:
            ValueError: the state is damaged.
        """
        self.check_state_dict(state)
        self._best, self._good = state["best"], list(state["good"])
        self._waited, self._state = state["waited"], state["state"]
        self._least_drop, self._restored_at_drop = state.get("least_drop"), state.get("restored_at_drop")

    def _reference_at(self, step: int) -> float:
        """Return the value to compare with that of a step.

        Raises:
            RuntimeError: there is none.
        """
        points = [point for point in self._points if point[0] <= step]
        if points:
            return points[-1][1]
        if self._best is None:
            raise RuntimeError(
                f"guard: no {self.monitor} was validated before the pruning began, so there is nothing to compare "
                "with; give guard.reference, or let the schedule begin after the first validation"
            )
        return self._best

    def _within_limit(self, value: float, pruner: Pruner, left: int | None) -> str | None:
        self._waited, self._least_drop, self._restored_at_drop = 0, None, None
        self._forget_current_masks(pruner)
        self._good.append(pruner.clock.step)
        if self._state == "recovering":
            self._state, pruner.paused = "watching", False
            return f"{self.monitor} {value:.6g} is inside the limit again: pruning goes on"
        has_time = left is None or left > self.patience
        # An update at this very step would replace the masks that were validated.
        is_clear = _last_update(pruner) < pruner.clock.step
        if self._state == "watching" and self.until_limit and has_time and pruner.has_ended and is_clear:
            return self._raise_sparsity(value, pruner)
        return None

    def _raise_sparsity(self, value: float, pruner: Pruner) -> str | None:
        """Prune on, unless the last time has pruned nothing more."""
        last, sparsity = pruner.last_update, 1 - (1 - pruner.sparsity) * (1 - self.raise_by)
        if last is not None and not last.churn and last.scheduled_sparsity > last.sparsity:
            return None
        update = pruner.raise_sparsity(sparsity)
        says = f"{self.monitor} {value:.6g} is inside the limit: sparsity rises to"
        if update is None:
            return f"{says} {sparsity:.4f} after the next step"
        self._good[-1] = pruner.clock.step - 1
        return f"{says} {update.sparsity:.4f}" if update.churn else None

    def _beyond_limit(
        self, value: float, reference: float, drop: float, pruner: Pruner, left: int | None
    ) -> str | None:
        if self._state == "stopped" or (self._state == "watching" and not pruner.sparsity):
            return None  # pruning is not the cause
        self._waited += 1
        drops = [drop, self._least_drop]
        self._least_drop = min((d for d in drops if d is not None and not math.isnan(d)), default=math.inf)
        has_time = left is None or left > self.patience
        if self._state == "watching" and has_time:
            self._state, pruner.paused, self._waited = "recovering", True, 0
            return (
                f"{self.monitor} {value:.6g} is {drop:.6g} short of the dense {reference:.6g}, limit "
                f"{self.max_drop:.6g}: pruning pauses at sparsity {pruner.sparsity:.4f}"
            )
        if (self._waited < self.patience and has_time) or not pruner.sparsity:
            return None
        if self._restored_at_drop is not None and not self._has_helped(self._restored_at_drop, self._least_drop):
            self._state, pruner.paused = "stopped", True
            return (
                f"{self.monitor} {value:.6g} did not recover with the denser masks, so pruning is not the cause: "
                f"no masks are restored any more, sparsity {pruner.sparsity:.4f}, and held"
            )
        self._restored_at_drop, self._least_drop = self._least_drop, None
        return self._roll_back(value, pruner, has_time)

    def _roll_back(self, value: float, pruner: Pruner, has_time: bool) -> str:
        """Restore the masks of the last validation within the limit that had others."""
        self._forget_current_masks(pruner)
        step = max(self._good.pop() if self._good else 0, pruner.journal.earliest_step if pruner.journal else 0)
        self._state, pruner.paused, self._waited = "holding", True, 0
        pruner.restore(step)
        validations = f"{self.patience} validation{'s' if self.patience != 1 else ''}"
        why = f"has not recovered in {validations}" if has_time else "is outside the limit at the end"
        went = f"back to the masks of step {step}, sparsity {pruner.sparsity:.4f}, and held"
        return f"{self.monitor} {value:.6g} {why}: {went}"

    def _has_helped(self, before: float, after: float) -> bool:
        """Return whether denser masks brought the metric clearly closer to the limit."""
        return math.isfinite(after) and after - self.max_drop <= _HELPS * (before - self.max_drop)

    def _forget_current_masks(self, pruner: Pruner) -> None:
        """Forget the validations of the present masks, so that one step stands for each earlier state of them."""
        while self._good and self._good[-1] >= _last_update(pruner):
            self._good.pop()

    def _better(self, a: float, b: float) -> float:
        return max(a, b) if self.mode == "max" else min(a, b)


def _checked_control(control: Any) -> tuple[tuple[int, float], ...]:
    """Return the points of a dense training in the order of their steps.

    Raises:
        TypeError: they are no mapping and no pairs.
    """
    if control is None:
        return ()
    try:
        points = [(step, value) for step, value in (control.items() if isinstance(control, Mapping) else control)]
    except (TypeError, ValueError):
        points = []
    if not points or not all(is_whole(step) and step >= 0 and is_number(value) for step, value in points):
        raise TypeError(
            f"guard: control={control!r} is not accepted; give a mapping from optimizer steps to values of the dense "
            "training, pairs of both, or None"
        )
    return tuple(sorted((int(step), float(value)) for step, value in points if not math.isnan(value)))


def _is_state(state: Any) -> bool:
    """Return whether a value is what ``state_dict`` of a guard returns."""
    needed, added = {"best", "good", "waited", "state"}, {"least_drop", "restored_at_drop"}
    if not isinstance(state, Mapping) or not needed <= set(state) <= needed | added:
        return False
    good, name = state["good"], state["state"]
    counts = [*good, state["waited"]] if isinstance(good, (list, tuple)) else [None]
    numbers = [state["best"], state.get("least_drop"), state.get("restored_at_drop")]
    return (
        all(number is None or isinstance(number, (int, float)) for number in numbers)
        and all(is_whole(count) and count >= 0 for count in counts)
        and isinstance(name, str)
        and name in STATES
    )


def _last_update(pruner: Pruner) -> int:
    return pruner.last_update.step if pruner.last_update else 0
