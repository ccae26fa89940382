"""Connections that move away from zero stay."""

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
    """``S <- S - w dL/dw``, summed over steps, of latent weights: high where training drives a weight away from zero.

    Hard movement pruning is this with the threshold ``topk``. Soft movement pruning is this with a ``penalty`` and the
    threshold ``fixed``, whose ``theta`` is then the score to exceed. Meant for fine-tuning a pretrained network. The
    values behind the mask train on (straight-through), where the paper holds them still. Keeps the scores and the
    latent values (8 bytes a connection for float32) beside the mask (1 byte).

    Args:
        penalty: of soft movement pruning: each step lowers a score by ``penalty sigmoid(S) (1 - sigmoid(S))``.

    Source: Sanh, Wolf, Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (2020), equations 2 to 4.

    Example:
        The first weight grows, the second shrinks:

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
        """Return ``movement``: float32 zeros."""
        zeros = torch.zeros(target.values.shape, dtype=torch.float32, device=target.values.device)
        return {"movement": zeros}

    def observe(self, target: TargetView) -> None:
        """Add one step's ``-w dL/dw``; a target without a gradient is left as it is."""
        movement = target.state["movement"]
        if self.penalty:
            held = movement.sigmoid()
            movement.sub_(held.mul_(1 - held), alpha=self.penalty)
        if target.grad is not None:
            movement.addcmul_(target.weight.float(), target.grad.float(), value=-1)

    def score(self, target: TargetView) -> Tensor:
        """Return the sum so far."""
        return target.state["movement"]
