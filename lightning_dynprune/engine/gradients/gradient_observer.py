"""Gradients of each step, shown to strategies that accumulate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch.optim import Optimizer

from lightning_dynprune.base import name_some
from lightning_dynprune.engine.updates import piece_size, pieces_of
from lightning_dynprune.masks import MaskSet, applied_gradient
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import Target, TargetView


def check_gradients(targets: Sequence[Target], strategy: Strategy, trained_by: Sequence[Sequence[int]]) -> None:
    """Raise where a strategy cannot get the gradients that it reads.

    Args:
        targets: the targets.
        strategy: reads gradients where it declares ``accumulates`` or ``needs_gradients``.
        trained_by: for each optimizer the positions of the targets that it trains.

    Raises:
        ValueError: the strategy accumulates, and no optimizer trains one of the targets; or it reads gradients, and a
            target has sparse ones.
    """
    sparse = [target.name for target in targets if target.sparse_gradients]
    if sparse and (strategy.accumulates or strategy.needs_gradients):
        raise ValueError(_sparse(sparse[0], torch.sparse_coo, strategy))
    trained = {position for positions in trained_by for position in positions}
    untrained = [target.name for position, target in enumerate(targets) if position not in trained]
    if strategy.accumulates and untrained:
        raise ValueError(
            f"strategy={type(strategy).__name__} watches every step, and no optimizer trains "
            f"{name_some(untrained)}; exclude what is not trained, or give strategy='magnitude', which needs no "
            "gradients"
        )


class GradientObserver:
    """Shows the gradients of each step to a strategy that accumulates.

    Args:
        masks: of the targets.
        strategy: observes gradients where it declares ``accumulates``.
        view: returns the view of the target at a position.
        optimizers: train the targets.
        trained_by: for each optimizer the positions of the targets that it trains.
    """

    def __init__(
        self,
        masks: MaskSet,
        strategy: Strategy,
        view: Callable[[int], TargetView],
        optimizers: Sequence[Optimizer],
        trained_by: Sequence[Sequence[int]],
    ) -> None:
        self._masks, self._strategy, self._view = masks, strategy, view
        self._optimizers, self._trained_by = optimizers, trained_by
        self._observed: set[int] = set()
        self._stepped: set[int] = set()
        self._warned: set[str] = set()

    def before_step(self, number: int) -> None:
        """Show the gradients of the optimizer with this number, which is about to step."""
        if self._strategy.accumulates:
            self._stepped.add(number)
            for position in self._trained_by[number]:
                self.observe(position, self._optimizers[number])

    def observe(self, position: int, optimizer: Optimizer | None = None) -> None:
        """Show a target's gradient to the strategy.

        Args:
            position: of the target.
            optimizer: is about to step, so the gradient is shown as it applies it; None: as it is.

        Raises:
            RuntimeError: the gradient is sparse.
        """
        target, view = self._masks.targets[position], self._view(position)
        grad = target.grad
        if grad is not None:
            if grad.layout != torch.strided:
                raise RuntimeError(_sparse(target.name, grad.layout, self._strategy))
            self._observed.add(position)
            grad = grad if optimizer is None else applied_gradient(optimizer, grad)
        view.grad = grad
        if not self._strategy.elementwise or target.values.numel() <= piece_size(target):
            self._strategy.observe(view)
            return
        flat = view.flat()
        for start, stop in pieces_of(target):
            self._strategy.observe(flat.piece(start, stop))

    def check(self, stacklevel: int) -> None:
        """Check that the strategy has observed gradients of the targets, before an update scores them.

        Warns once of a target that trains and gets no gradient, such as an unused branch.

        Args:
            stacklevel: of the warning, seen from the caller.

        Raises:
            RuntimeError: there was no gradient yet, or the optimizer of a target has not stepped yet.
        """
        if not self._strategy.accumulates:
            return
        unknown = [i for i in range(len(self._masks.targets)) if i not in self._observed and self._is_initial(i)]
        unstepped = {i for number, own in enumerate(self._trained_by) if number not in self._stepped for i in own}
        names = [self._masks.targets[i].name for i in unknown]
        strategy = type(self._strategy).__name__
        if len(unknown) == len(self._masks.targets) or unstepped.intersection(unknown):
            raise RuntimeError(
                f"strategy={strategy} scores by the gradients of steps it has watched, and there was none yet of "
                f"{name_some(names)}; update after a step of the optimizer, or give strategy='magnitude', which needs "
                "none"
            )
        if new := [name for name in names if name not in self._warned]:
            self._warned.update(new)
            warnings.warn(
                f"no gradient has reached {name_some(new)} yet, so strategy {strategy} scores its connections 0 and "
                "may prune them first; exclude what takes no part in the loss, or give strategy='magnitude', which "
                "needs no gradients",
                stacklevel=stacklevel + 1,
            )

    def resume(self) -> None:
        """Assume that the strategy's state was loaded from a training in which every optimizer has stepped."""
        self._observed.clear()
        self._stepped.update(range(len(self._optimizers)))

    def _is_initial(self, position: int) -> bool:
        target = self._masks.targets[position]
        initial = self._strategy.init_state(target)
        return all(torch.equal(target.state[key], value) for key, value in initial.items())


def _sparse(name: str, layout: torch.layout, strategy: Strategy) -> str:
    return (
        f"{name} has a gradient of layout {layout}, and strategy={type(strategy).__name__} reads every connection's; "
        "make the module with sparse=False, exclude the target, or give strategy='magnitude', which needs no gradients"
    )
