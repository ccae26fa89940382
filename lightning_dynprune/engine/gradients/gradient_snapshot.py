"""The gradients of the last step, kept for an update that reads them later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_dynprune.targets import Target


class GradientSnapshot:
    """Keeps the gradients that optimizers step with, as they were before clipping or the next backward pass.

    Several optimizers that are stepped by hand have gradients of their own, which the backward pass for the next one
    may add to or zero; they are kept until every optimizer has stepped. Of a sharded target the local part is kept.

    Args:
        targets: the targets.
        trained_by: for each optimizer the positions of the targets that it trains.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> snapshot = GradientSnapshot([Target("w", weight)], [[0]])
        >>> weight.grad = torch.tensor([3.0])
        >>> snapshot.add_step(0)
        >>> weight.grad.zero_().item(), snapshot.of(0).item(), snapshot.is_complete
        (0.0, 3.0, True)
    """

    def __init__(self, targets: Sequence[Target], trained_by: Sequence[Sequence[int]]) -> None:
        self._targets, self._trained_by = targets, trained_by
        self._kept: dict[int, Tensor] = {}
        self._stepped: set[int] = set()

    @property
    def is_complete(self) -> bool:
        """Whether every optimizer that trains a target has stepped since the last update."""
        return all(number in self._stepped for number, positions in enumerate(self._trained_by) if positions)

    @property
    def is_empty(self) -> bool:
        """Whether no gradient is kept."""
        return not self._kept

    def keep(self, position: int) -> None:
        """Keep a copy of a target's present gradient, if it has one."""
        grad = self._targets[position].grad
        if grad is not None:
            self._kept[position] = grad.clone() if grad.layout == torch.strided else grad.to_dense()

    def drop(self, position: int) -> None:
        """Discard a target's gradient, such as that of a step which a gradient scaler skipped."""
        self._kept.pop(position, None)

    def add_step(self, number: int, keep: bool = True) -> None:
        """Note that an optimizer is about to step.

        Args:
            number: of the optimizer.
            keep: keep its gradients; False where they were kept before they were masked.
        """
        self._stepped.add(number)
        for position in self._trained_by[number] if keep else ():
            self.keep(position)

    def of(self, position: int) -> Tensor | None:
        """Return the gradient that an update reads: dense, shaped like the target's local values; None if none."""
        if position in self._kept or self._stepped:
            return self._kept.get(position)
        grad = self._targets[position].grad
        return grad.to_dense() if grad is not None and grad.layout != torch.strided else grad

    def clear(self) -> None:
        """Discard everything, after an update."""
        self._kept.clear()
        self._stepped.clear()

    def state_dict(self) -> dict[str, Any] | None:
        """Return the gradients that wait for other optimizers to step, unsharded; None if none wait."""
        if not self._stepped:
            return None
        kept = ((self._targets[position], grad) for position, grad in sorted(self._kept.items()))
        return {
            "stepped_optimizers": sorted(self._stepped),
            "gradients": {t.name: t.full_tensor(grad) for t, grad in kept},
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Resume from a :meth:`state_dict`."""
        self.clear()
        if state is None:
            return
        self._stepped.update(state["stepped_optimizers"])
        for position, target in enumerate(self._targets):
            if target.name in state["gradients"]:
                self._kept[position] = target.local_part(state["gradients"][target.name]).to(target.values.device)
