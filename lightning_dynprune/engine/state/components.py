"""The components of a pruning run that a checkpoint keeps: each returns, checks and loads its entries of the state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_dynprune.engine.run import PruningRun
from lightning_dynprune.engine.state.matching import (
    validate_latent,
    validate_part_state,
    validate_pattern,
    validate_targets,
)
from lightning_dynprune.targets import Target


class Component(Protocol):
    """A part of a run that has entries in its state."""

    def entries(self) -> dict[str, Any]:
        """Return the entries of this component: tensors and plain values."""

    def check(self, state: Mapping[str, Any]) -> None:
        """Raise where the entries do not fit this run; nothing is changed.

        Raises:
            ValueError: naming the entry.
        """

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over the entries, which have been checked."""


class JournalState:
    """The journal's record, which the journal checks before it takes any of it; it is the first to be loaded.

    Args:
        run: whose journal it is.
    """

    def __init__(self, run: PruningRun) -> None:
        self._journal = run.journal

    def entries(self) -> dict[str, Any]:
        """Return the record; None where there is no journal."""
        return {"journal": None if self._journal is None else self._journal.state_dict()}

    def check(self, state: Mapping[str, Any]) -> None:
        """Do nothing: :meth:`load` checks the record first."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over the record.

        Raises:
            ValueError: the record is damaged or belongs to other targets; nothing is changed.
        """
        if self._journal is not None and state["journal"] is not None:
            self._journal.load_state_dict(state["journal"])


class RewindState:
    """The copy of the weights to go back to.

    Args:
        run: whose copy it is.
    """

    def __init__(self, run: PruningRun) -> None:
        self._rewind = run.rewind

    def entries(self) -> dict[str, Any]:
        """Return the copy; None where weights are not rewound."""
        return {"rewind": None if self._rewind is None else self._rewind.state_dict()}

    def check(self, state: Mapping[str, Any]) -> None:
        """Raise where the copy does not fit the model."""
        if self._rewind is not None and state["rewind"] is not None:
            self._rewind.check_state_dict(state["rewind"])

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over the copy."""
        if self._rewind is not None and state["rewind"] is not None:
            self._rewind.load_state_dict(state["rewind"])


class TargetState:
    """The masks of the targets, and the tensors that strategy and threshold keep for them; unsharded.

    Args:
        run: whose targets they are.
    """

    def __init__(self, run: PruningRun) -> None:
        self._plan, self._masks = run.plan, run.masks

    def entries(self) -> dict[str, Any]:
        """Return masks as bits, and the tensors of strategy and threshold."""
        targets = self._masks.targets
        return {
            "pattern": self._plan.pattern.label,
            "original_numel": list(self._masks.original_numel),
            "shapes": {t.name: list(t.parameter.shape) for t in targets},
            "masks": self._masks.pack(),
            "state": {t.name: {key: _unsharded(t, value) for key, value in t.state.items()} for t in targets},
            "memory": {t.name: dict(t.memory) for t in targets},
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Raise where the state has another pattern, other targets, or tensors of other parts."""
        plan, targets = self._plan, self._masks.targets
        validate_pattern(plan.pattern, state)
        validate_targets(targets, state)
        own = {t.name: {key: _unsharded_like(t, value) for key, value in t.state.items()} for t in targets}
        validate_part_state("strategy", plan.strategy, state["state"], own)
        validate_part_state("threshold", plan.threshold, state["memory"], {t.name: t.memory for t in targets})
        masks = self._masks.unpack(state["masks"])
        if plan.strategy.latent:
            validate_latent(targets, masks, state["state"])

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over masks and tensors."""
        self._masks.load(self._masks.unpack(state["masks"]))
        self._masks.original_numel = list(state["original_numel"])
        for target in self._masks.targets:
            for key, value in state["state"][target.name].items():
                own = target.state[key]
                own.copy_(value if own.shape == value.shape else target.local_part(value))
            for key, value in state["memory"][target.name].items():
                target.memory[key].copy_(value)


class UnitState:
    """The values that coupled units keep beside the masks; loaded after them.

    Args:
        run: whose units they are.
    """

    def __init__(self, run: PruningRun) -> None:
        self._units = run.units

    def entries(self) -> dict[str, Any]:
        """Return what the units keep; None if nothing."""
        return {"units": self._units.state_dict()}

    def check(self, state: Mapping[str, Any]) -> None:
        """Raise where the entry belongs to other units."""
        self._units.check_state_dict(state["units"])

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over the entry."""
        self._units.load_state_dict(state["units"])


class ProgressState:
    """Clock, seed, warnings given, and gradients that wait for other optimizers.

    Args:
        run: whose progress it is.
    """

    def __init__(self, run: PruningRun) -> None:
        self._run = run

    def entries(self) -> dict[str, Any]:
        """Return plain values, and the gradients that wait."""
        return {
            **self._run.progress.state_dict(),
            "seed": self._run.views.seed,
            "at_min_kept": sorted(self._run.min_kept_warnings.names),
            "gradient_snapshot": self._run.snapshot.state_dict(),
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Do nothing: the structure of these entries has been validated."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over the values."""
        self._run.progress.load_state_dict(state)
        self._run.views.seed = state["seed"]
        self._run.min_kept_warnings.names = set(state["at_min_kept"])
        self._run.snapshot.load_state_dict(state["gradient_snapshot"])


def _unsharded(target: Target, value: Tensor) -> Tensor:
    return target.full_tensor(value) if value.shape == target.values.shape else value


def _unsharded_like(target: Target, value: Tensor) -> Tensor:
    """Return a tensor without content, of the shape and type that a value has in a checkpoint."""
    shape = target.parameter.shape if value.shape == target.values.shape else value.shape
    return torch.empty(shape, dtype=value.dtype, device="meta")
