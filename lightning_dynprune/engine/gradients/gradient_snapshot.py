"""The gradients of the last step that an update reads, where the parameters no longer hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_dynprune.targets import Target


class LastGradients:
    """Keeps the gradients that optimizers step by, as they were before clipping or another's backward pass.

    Of several optimizers stepped by hand each steps by gradients of its own, which the next one's backward pass may add
    to or zero; they are kept until each has had its turn. Of a sharded target the part here is kept.

    Args:
        targets: the targets.
        trained_by: for each optimizer the positions of the targets that it trains.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> last = LastGradients([Target("w", weight)], [[0]])
        >>> weight.grad = torch.tensor([3.0])
        >>> last.take_turn(0)
        >>> weight.grad.zero_().item(), last.of(0).item(), last.are_complete
        (0.0, 3.0, True)
    """

    def __init__(self, targets: Sequence[Target], trained_by: Sequence[Sequence[int]]) -> None:
        self._targets, self._trained_by = targets, trained_by
        self._kept: dict[int, Tensor] = {}
        self._turns: set[int] = set()

    @property
    def are_complete(self) -> bool:
        """Whether every optimizer of a target has had its turn."""
        return all(number in self._turns for number, positions in enumerate(self._trained_by) if positions)

    def keep(self, position: int) -> None:
        """Keep a target's gradient as it is now, if there is one."""
        grad = self._targets[position].grad
        if grad is not None:
            self._kept[position] = grad.clone() if grad.layout == torch.strided else grad.to_dense()

    def drop(self, position: int) -> None:
        """Let go of a target's gradient, as that of a step which a gradient scaler skipped."""
        self._kept.pop(position, None)

    def take_turn(self, number: int, keep: bool = True) -> None:
        """Note that an optimizer is about to step.

        Args:
            number: of the optimizer.
            keep: keep its gradients; False where they have been kept before they were masked.
        """
        self._turns.add(number)
        for position in self._trained_by[number] if keep else ():
            self.keep(position)

    def of(self, position: int) -> Tensor | None:
        """Return what an update reads of a target: dense, shaped like its values here; None where there is none."""
        if position in self._kept or self._turns:
            return self._kept.get(position)
        grad = self._targets[position].grad
        return grad.to_dense() if grad is not None and grad.layout != torch.strided else grad

    def clear(self) -> None:
        """Begin anew, after an update."""
        self._kept.clear()
        self._turns.clear()

    def state_dict(self) -> dict[str, Any] | None:
        """Return the gradients that wait for the turns of other optimizers, whole; None where there are none."""
        if not self._turns:
            return None
        kept = ((self._targets[position], grad) for position, grad in sorted(self._kept.items()))
        return {"optimizers": sorted(self._turns), "gradients": {t.name: t.full_tensor(grad) for t, grad in kept}}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a :meth:`state_dict`."""
        self.clear()
        if state is None:
            return
        self._turns.update(state["optimizers"])
        for position, target in enumerate(self._targets):
            if target.name in state["gradients"]:
                self._kept[position] = target.local_part(state["gradients"][target.name]).to(target.values.device)
