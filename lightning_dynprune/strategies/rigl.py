"""The strategy ``rigl``: drop the smallest weights, grow where the gradient is largest."""

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
    """Scores kept connections by ``|w|`` and pruned connections, for returning, by the gradient's size ``|dL/dw|``.

    Use it to train sparse from scratch. Settings and defaults are those of :class:`SET`. The gradients of pruned
    connections are those of the step before the update; autograd computes them anyway, so steps without an update cost
    nothing extra.

    Two points differ from the paper: an update follows its optimizer step instead of replacing it, and the first mask
    is drawn after the first backward pass.

    Memory: the mask, 1 byte per connection.

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
            RuntimeError: the target has no gradient.
        """
        return target.gradient().abs()
