"""The check that the targets are trained by the optimizers that the pruner was given."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from lightning_dynprune.base import name_some
from lightning_dynprune.targets import Target

# One hook for all checks: removing one of several while torch calls them, as the garbage collector might, would raise.
_checks: weakref.WeakSet[OptimizerCheck] = weakref.WeakSet()
_handles: list[RemovableHandle] = []


class OptimizerCheck:
    """Notices that another optimizer than those of the pruner steps its targets.

    torch calls it at every step of any optimizer. One that holds a target and is unknown is a problem where no known
    optimizer has stepped since the last look, or none of those that train the same target. Wrappers are known by the
    optimizer inside them, and the other way round.

    Args:
        targets: the targets.
        optimizers: of the pruner; none: nothing is checked.
        trained_by: for each optimizer the positions of the targets that it trains.
    """

    def __init__(
        self, targets: Sequence[Target], optimizers: Sequence[Optimizer], trained_by: Sequence[Sequence[int]]
    ) -> None:
        self._positions = {target.parameter: position for position, target in enumerate(targets)}
        self._targets, self._optimizers, self._trained_by = targets, optimizers, trained_by
        self._stepped: set[int] = set()
        self._unknown: tuple[str, set[int]] | None = None
        self._held: weakref.WeakKeyDictionary[Optimizer, tuple[int, set[int]]] = weakref.WeakKeyDictionary()
        if optimizers:
            _checks.add(self)
            _listen()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which is called at no step, as copies of optimizers have no hooks either."""
        return {**vars(self), "_held": {}}

    def close(self) -> None:
        """Be called at no further step."""
        _checks.discard(self)
        _listen()

    def add_step(self, optimizer: Optimizer) -> None:
        """Note that an optimizer is about to step.

        Args:
            optimizer: any.
        """
        for number, known in enumerate(self._optimizers):
            if optimizer is known:
                self._stepped.add(number)
                return
        if held := self._targets_of(optimizer):
            related = [n for n, known in enumerate(self._optimizers) if _are_related(optimizer, known)]
            self._stepped.update(related)
            if not related:
                self._unknown = type(optimizer).__name__, held

    def problem(self) -> str | None:
        """Return which optimizer took the place of those that are known since the last call; None if none did."""
        unknown, stepped = self._unknown, self._stepped
        if unknown is None:
            stepped.clear()
            return None
        kind, held = unknown
        trained = {i for positions in self._trained_by for i in positions}
        by_stepped = {i for number in stepped for i in self._trained_by[number]}
        missed = sorted(held if not stepped else (held & trained) - by_stepped)
        self._unknown, self._stepped = None, set()
        if not missed:
            return None
        known = name_some([type(optimizer).__name__ for optimizer in self._optimizers])
        return (
            f"{kind} has stepped {name_some([self._targets[i].name for i in missed])} and is an optimizer that the "
            f"pruner was not given, while {known}, which it was given, has not: it cannot follow the gradients of such "
            "steps, nor clear momentum at pruned connections. Give the pruner every optimizer that trains a target. To "
            "replace one in mid-run, build the pruner again with the new one and load the state of this one: state = "
            "pruner.state_dict(); pruner.close(); pruner = Pruner(model, optimizer, ...); "
            "pruner.load_state_dict(state). With the callback, return all optimizers from configure_optimizers, or "
            "replace one between two fits"
        )

    def _targets_of(self, optimizer: Optimizer) -> set[int]:
        """Return the positions of the targets that an optimizer holds; searched again when it got more."""
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        known = self._held.get(optimizer)
        if known is None or known[0] != count:
            parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
            known = count, {self._positions[p] for p in parameters if p in self._positions}
            self._held[optimizer] = known
        return known[1]


def _are_related(one: Optimizer, other: Optimizer) -> bool:
    """Return whether one optimizer wraps the other, or they share their parameter groups."""
    groups = {id(group) for group in one.param_groups}
    return (
        any(value is other for value in vars(one).values())
        or any(value is one for value in vars(other).values())
        or any(id(group) in groups for group in other.param_groups)
    )


def _listen() -> None:
    """Let torch call this room at every step while there are checks, and no longer."""
    if _checks and not _handles:
        _handles.append(register_optimizer_step_pre_hook(_on_step))
    elif not _checks:
        while _handles:
            _handles.pop().remove()


def _on_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for check in list(_checks):
        check.add_step(optimizer)
