"""The gradients of the targets: who takes note of them at each step, and of which targets there were none."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch.optim import Optimizer

from lightning_dynprune.base import name_some
from lightning_dynprune.engine.score_reader import piece_size, pieces_of
from lightning_dynprune.masks import MaskSet, applied_gradient
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import TargetView


class Observation:
    """Hands each step's gradients to a strategy that accumulates.

    Args:
        masks: of the targets.
        strategy: takes note where it declares ``accumulates``.
        view: returns what a strategy sees of the target at a position.
        optimizers: what trains the targets.
        trained_by: the positions of the targets that each of them trains.

    Raises:
        ValueError: the strategy accumulates, and a target is trained by none of the optimizers; or it reads gradients,
            and those of a target come as sparse tensors.
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
        self._known: set[int] = set()
        self._stepped: set[int] = set()
        self._said: set[str] = set()
        sparse = [target.name for target in masks.targets if target.sparse_gradients]
        if sparse and (strategy.accumulates or strategy.needs_gradients):
            raise ValueError(_sparse(sparse[0], torch.sparse_coo, strategy))
        trained = {position for positions in trained_by for position in positions}
        untrained = [t.name for position, t in enumerate(masks.targets) if position not in trained]
        if strategy.accumulates and untrained:
            raise ValueError(
                f"strategy={type(strategy).__name__} watches every step, and no optimizer trains "
                f"{name_some(untrained)}; exclude what is not trained, or give strategy='magnitude', which needs no gradients"
            )

    def before_step(self, number: int) -> None:
        """Take note of the gradients that the optimizer of a number is about to step by."""
        if self._strategy.accumulates:
            self._stepped.add(number)
            for position in self._trained_by[number]:
                self.take(position, self._optimizers[number])

    def take(self, position: int, optimizer: Optimizer | None = None) -> None:
        """Take note of a target's gradient, as the optimizer applies it where one is about to.

        Raises:
            RuntimeError: the gradient is sparse.
        """
        target, view = self._masks.targets[position], self._view(position)
        grad = target.grad
        if grad is not None:
            if grad.layout != torch.strided:
                raise RuntimeError(_sparse(target.name, grad.layout, self._strategy))
            self._known.add(position)
            grad = grad if optimizer is None else applied_gradient(optimizer, grad)
        view.grad = grad
        if not self._strategy.elementwise or target.values.numel() <= piece_size(target):
            self._strategy.observe(view)
            return
        flat = view.flat()
        for start, stop in pieces_of(target):
            self._strategy.observe(flat.piece(start, stop))

    def check(self) -> None:
        """Say of which targets an update knows nothing.

        A target that trains and gets no gradient, such as an unused branch, is named in a warning, once. Before any
        gradient, or before a target's optimizer has had its turn, the update is refused.

        Raises:
            RuntimeError: a cut would be made of what has not been seen.
        """
        if not self._strategy.accumulates:
            return
        unknown = [i for i in range(len(self._masks.targets)) if i not in self._known and self._is_as_begun(i)]
        waiting = {i for number, own in enumerate(self._trained_by) if number not in self._stepped for i in own}
        names = [self._masks.targets[i].name for i in unknown]
        strategy = type(self._strategy).__name__
        if len(unknown) == len(self._masks.targets) or waiting.intersection(unknown):
            raise RuntimeError(
                f"strategy={strategy} scores by the gradients of steps it has watched, and there was none yet of "
                f"{name_some(names)}; update after a step of the optimizer, or give strategy='magnitude', which needs "
                "none"
            )
        if new := [name for name in names if name not in self._said]:
            self._said.update(new)
            warnings.warn(
                f"no gradient has reached {name_some(new)} yet, so to strategy {strategy} its connections are worth "
                "nothing and may be the first to go; exclude what takes no part in the loss, or give "
                "strategy='magnitude', which needs no gradients",
                stacklevel=4,
            )

    def resume(self) -> None:
        """Take note that the strategy's state is that of a training whose optimizers have had their turns."""
        self._known.clear()
        self._stepped.update(range(len(self._optimizers)))

    def _is_as_begun(self, position: int) -> bool:
        target = self._masks.targets[position]
        begun = self._strategy.init_state(target)
        return all(torch.equal(target.state[key], value) for key, value in begun.items())


def _sparse(name: str, layout: torch.layout, strategy: Strategy) -> str:
    return (
        f"{name} has a gradient of layout {layout}, and strategy={type(strategy).__name__} reads every connection's; "
        "make the module with sparse=False, exclude the target, or give strategy='magnitude', which needs no gradients"
    )
