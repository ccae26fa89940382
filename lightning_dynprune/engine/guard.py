"""The accuracy guard: stops pruning where a validated metric falls too far, and may prune on where it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_dynprune.base import check_count, check_real, convert_settings, is_whole
from lightning_dynprune.engine.pruner import Pruner

MODES = ("max", "min")
STATES = ("watching", "recovering", "holding")


@dataclass
class AccuracyGuard:
    """Compares a validated metric with that of the dense network, and pauses or undoes pruning that costs too much.

    The reference is the best value validated before the first update, or ``reference``. If the metric falls more than
    ``max_drop`` short of it, the schedule pauses and training continues. If the metric has not recovered after
    ``patience`` validations, the masks of the last validation within the limit are restored, with the values that were
    cut since, and the schedule stays paused. If the metric still does not recover, the masks of the validation before
    are restored, and so on. With ``until_limit`` the sparsity rises further once the schedule has ended, as long as the
    metric stays within the limit. Every decision is a note in the journal.

    Args:
        monitor: name of the metric as the LightningModule logs it in validation.
        max_drop: largest accepted distance from the reference, in the unit of the metric.
        mode: "max" if higher is better, "min" if lower is.
        reference: the metric of the dense network; None: the best value validated before the first update.
        patience: validations to wait for the metric to recover.
        until_limit: prune on after the end of the schedule.
        raise_by: share of the remaining connections that is pruned at each validation after that, above 0 and below 1.

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
    _best: float | None = field(default=None, init=False, repr=False)
    _good: list[int] = field(default_factory=list, init=False, repr=False)
    _waited: int = field(default=0, init=False, repr=False)
    _state: str = field(default="watching", init=False, repr=False)

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
        if self._best is None:
            raise RuntimeError(
                f"guard: no {self.monitor} was validated before the pruning began, so there is nothing to compare "
                "with; give guard.reference, or let the schedule begin after the first validation"
            )
        drop = self._best - value if self.mode == "max" else value - self._best
        # NaN compares as False, so it counts as outside the limit.
        decision = (
            self._within_limit(value, pruner, left)
            if drop <= self.max_drop
            else self._beyond_limit(value, drop, pruner, left)
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
        return self._state == "holding"

    def state_dict(self) -> dict[str, Any]:
        """Return all there is to resume from."""
        return {"best": self._best, "good": list(self._good), "waited": self._waited, "state": self._state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a :meth:`state_dict`.

        Raises:
            ValueError: the state is damaged.
        """
        if not _is_state(state):
            raise ValueError("checkpoint: the state of the guard is not what it writes; the file is damaged")
        self._best, self._good = state["best"], list(state["good"])
        self._waited, self._state = state["waited"], state["state"]

    def _within_limit(self, value: float, pruner: Pruner, left: int | None) -> str | None:
        self._waited = 0
        self._forget_current_masks(pruner)
        self._good.append(pruner.clock.step)
        if self._state == "recovering":
            self._state, pruner.paused = "watching", False
            return f"{self.monitor} {value:.6g} is inside the limit again: pruning goes on"
        has_time = left is None or left > self.patience
        # An update at this very step would replace the masks that were validated.
        is_clear = _last_update(pruner) < pruner.clock.step
        if self._state == "watching" and self.until_limit and has_time and pruner.has_ended and is_clear:
            density = (1 - pruner.sparsity) * (1 - self.raise_by)
            self._good[-1] = pruner.clock.step - 1
            update = pruner.update(1 - density)
            return (
                f"{self.monitor} {value:.6g} is inside the limit: sparsity rises to {update.sparsity:.4f}"
                if update.churn
                else None
            )
        return None

    def _beyond_limit(self, value: float, drop: float, pruner: Pruner, left: int | None) -> str | None:
        if self._state == "watching" and not pruner.sparsity:
            return None  # nothing is pruned, so pruning is not the cause
        self._waited += 1
        has_time = left is None or left > self.patience
        if self._state == "watching" and has_time:
            self._state, pruner.paused, self._waited = "recovering", True, 0
            return (
                f"{self.monitor} {value:.6g} is {drop:.6g} short of the dense {self._best:.6g}, limit "
                f"{self.max_drop:.6g}: pruning pauses at sparsity {pruner.sparsity:.4f}"
            )
        if (self._waited < self.patience and has_time) or not pruner.sparsity:
            return None
        self._forget_current_masks(pruner)
        step = max(self._good.pop() if self._good else 0, pruner.journal.earliest_step if pruner.journal else 0)
        self._state, pruner.paused, self._waited = "holding", True, 0
        pruner.restore(step)
        validations = f"{self.patience} validation{'s' if self.patience != 1 else ''}"
        why = f"has not recovered in {validations}" if has_time else "is outside the limit at the end"
        went = f"back to the masks of step {step}, sparsity {pruner.sparsity:.4f}, and held"
        return f"{self.monitor} {value:.6g} {why}: {went}"

    def _forget_current_masks(self, pruner: Pruner) -> None:
        """Forget the validations of the present masks, so that one step stands for each earlier state of them."""
        while self._good and self._good[-1] >= _last_update(pruner):
            self._good.pop()

    def _better(self, a: float, b: float) -> float:
        return max(a, b) if self.mode == "max" else min(a, b)


def _is_state(state: Any) -> bool:
    """Return whether a value is what ``state_dict`` of a guard returns."""
    if not isinstance(state, Mapping) or set(state) != {"best", "good", "waited", "state"}:
        return False
    best, good, name = state["best"], state["good"], state["state"]
    counts = [*good, state["waited"]] if isinstance(good, (list, tuple)) else [None]
    return (
        (best is None or isinstance(best, (int, float)))
        and all(is_whole(count) and count >= 0 for count in counts)
        and isinstance(name, str)
        and name in STATES
    )


def _last_update(pruner: Pruner) -> int:
    return pruner.last_update.step if pruner.last_update else 0
