"""Rigged lottery: drop the smallest, grow where the gradient is largest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_dynprune.strategies.base import STRATEGIES
from lightning_dynprune.strategies.set import SET
from lightning_dynprune.targets import TargetView


@STRATEGIES.register("rigl")
@dataclass(frozen=True)
class RigL(SET):
    """Trains sparse from the start: each update drops the smallest ``|w|`` and grows where ``|dL/dw|`` is largest.

    All else is as in :class:`SET`. The gradients of pruned connections are those of the step that the update follows;
    they are there anyway, so a step without an update costs nothing. Keeps the mask alone (1 byte a connection).

    Two points differ from the paper: an update follows its optimizer step instead of replacing it, and the first mask
    is drawn after the first backward pass.

    Source: Evci et al., "Rigging the Lottery: Making All Tickets Winners" (2020), algorithm 1.

    Example:
        >>> import torch
        >>> from lightning_dynprune.targets import Target
        >>> target = Target("w", torch.nn.Parameter(torch.tensor([3.0, 0.0])))
        >>> target.parameter.grad = torch.tensor([0.5, -2.0])
        >>> RigL().grow(target.view(torch.tensor([True, False]))).tolist()
        [0.5, 2.0]
    """

    needs_gradients: ClassVar[bool] = True

    def grow(self, target: TargetView) -> Tensor | None:
        """Return ``|dL/dw|``.

        Raises:
            RuntimeError: there is no gradient.
        """
        return target.gradient().abs()
