"""The strategy ``movement``: whether training moves a weight away from zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_dynprune.base import check_real
from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.targets import Target, TargetView


@STRATEGIES.register("movement")
@dataclass(frozen=True)
class Movement(Strategy):
    """Scores a connection by how far training has moved its latent weight away from zero.

    Every step adds ``-w dL/dw`` to the score S. Use it when fine-tuning a pretrained network. The threshold ``topk``
    gives hard movement pruning; a ``penalty`` with the threshold ``fixed``, whose ``theta`` is the score to exceed,
    gives soft movement pruning. The values of pruned connections keep training (straight-through), while the paper
    keeps them constant.

    Memory: the mask, the scores and the latent values, 9 bytes per connection for float32 weights.

    Args:
        penalty: strength of the penalty of soft movement pruning: every step lowers a score by
            ``penalty sigmoid(S) (1 - sigmoid(S))``.

    Source: Sanh, Wolf, Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (2020), equations 2 to 4.

    Example:
        The gradient moves the first weight away from zero and the second towards it:

        >>> target = Target("w", torch.nn.Parameter(torch.tensor([2.0, -3.0])))
        >>> target.parameter.grad = torch.tensor([-1.0, -1.0])
        >>> target.state = Movement().init_state(target)
        >>> view = target.view(torch.ones(2, dtype=torch.bool))
        >>> Movement().observe(view)
        >>> Movement().score(view).tolist()
        [2.0, -3.0]
    """

    penalty: float = 0.0
    needs_gradients: ClassVar[bool] = True
    accumulates: ClassVar[bool] = True
    latent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("strategy movement: penalty", self.penalty, 0, 1e30)

    def init_state(self, target: Target) -> dict[str, Tensor]:
        """Return ``movement``: the sum, float32, initially zero."""
        zeros = torch.zeros(target.values.shape, dtype=torch.float32, device=target.values.device)
        return {"movement": zeros}

    def observe(self, target: TargetView) -> None:
        """Add one step's ``-w dL/dw`` to the sum and subtract the penalty; without a gradient only the latter."""
        movement = target.state["movement"]
        if self.penalty:
            sigmoid = movement.sigmoid()
            movement.sub_(sigmoid.mul_(1 - sigmoid), alpha=self.penalty)
        if target.grad is not None:
            movement.addcmul_(target.weight.float(), target.grad.float(), value=-1)

    def score(self, target: TargetView) -> Tensor:
        """Return the sum over the steps so far."""
        return target.state["movement"]
