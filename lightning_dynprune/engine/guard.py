"""A watch over the accuracy: neither pruned too far, nor short of what the network can bear."""

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
    """Compares a validated metric with the dense network's, and holds the pruning where it costs too much.

    The reference is the best value validated before the first update, or given. Pruned too far: when the metric falls
    more than ``max_drop`` short of it the schedule pauses and training goes on; when it has not recovered after
    ``patience`` validations, the masks go back to those of the last validation inside the limit, with the values that
    were cut since, and are held. Where that does not suffice either, the one before follows, and so on. Pruned too
    little: with ``until_limit`` the sparsity rises further once the schedule has ended, as long as the metric stays
    inside the limit. Every decision is a note in the journal.

    Args:
        monitor: name of the metric as the LightningModule logs it in validation.
        max_drop: how far the metric may fall short of the reference, in its own unit.
        mode: "max" where more is better, "min" where less is.
        reference: the metric of the dense network; None: measured before the first update.
        patience: validations to wait for a recovery.
        until_limit: go on pruning past the schedule's end.
        raise_by: share of the remaining connections that each step past the end prunes, above 0 and below 1.

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
        """Take a validated value and act on the pruner.

        Args:
            value: of the metric, at the masks as they are.
            pruner: the one whose masks are watched.
            left: validations that training still has, None where that is not known; with fewer than ``patience`` left
                the guard does not wait, and does not prune further.

        Returns:
            The decision in words, or None where there was none.

        Raises:
            RuntimeError: the network is pruned already and nothing dense was validated.
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
        # A metric that is not a number is no sign of health.
        decision = (
            self._inside(value, pruner, left) if drop <= self.max_drop else self._outside(value, drop, pruner, left)
        )
        if decision is None:
            return None
        decision = f"step {pruner.clock.step}: {decision}"
        if pruner.journal is not None:
            pruner.journal.note(pruner.clock.step, decision)
        return decision

    @property
    def holds(self) -> bool:
        """Whether the masks have been brought back and are held for good."""
        return self._state == "holding"

    def state_dict(self) -> dict[str, Any]:
        """Return all there is to resume from."""
        return {"best": self._best, "good": list(self._good), "waited": self._waited, "state": self._state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`.

        Raises:
            ValueError: the state is damaged.
        """
        if not _is_state(state):
            raise ValueError("checkpoint: the state of the guard is not what it writes; the file is damaged")
        self._best, self._good = state["best"], list(state["good"])
        self._waited, self._state = state["waited"], state["state"]

    def _inside(self, value: float, pruner: Pruner, left: int | None) -> str | None:
        self._waited = 0
        self._leave_out_masks_of_now(pruner)
        self._good.append(pruner.clock.step)
        if self._state == "recovering":
            self._state, pruner.paused = "watching", False
            return f"{self.monitor} {value:.6g} is inside the limit again: pruning goes on"
        has_time = left is None or left > self.patience
        # An update at this very step would hide the masks that are inside behind those it makes.
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

    def _outside(self, value: float, drop: float, pruner: Pruner, left: int | None) -> str | None:
        if self._state == "watching" and not pruner.sparsity:
            return None  # what is short here is training, not connections
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
        self._leave_out_masks_of_now(pruner)
        step = max(self._good.pop() if self._good else 0, pruner.journal.earliest_step if pruner.journal else 0)
        self._state, pruner.paused, self._waited = "holding", True, 0
        pruner.restore(step)
        validations = f"{self.patience} validation{'s' if self.patience != 1 else ''}"
        why = f"has not recovered in {validations}" if has_time else "is outside the limit at the end"
        went = f"back to the masks of step {step}, sparsity {pruner.sparsity:.4f}, and held"
        return f"{self.monitor} {value:.6g} {why}: {went}"

    def _leave_out_masks_of_now(self, pruner: Pruner) -> None:
        """Keep one step for each state of the masks, and none for that of now."""
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
