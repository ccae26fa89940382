"""The strategy ``taylor``: the first-order estimate of how a removal changes the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_dynprune.base import check_real
from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.targets import Target, TargetView


@STRATEGIES.register("taylor")
@dataclass(frozen=True)
class Taylor(Strategy):
    """Scores a connection by the squared first-order change of the loss when it is removed, averaged over steps.

    The average is ``s <- decay s + (1 - decay) (w dL/dw)^2``. It is the default strategy: use it when pruning during
    training from scratch or fine-tuning. Gradients are read as the optimizer receives them. A pruned connection has
    ``w = 0``, so its score falls towards 0. A target that receives no gradient scores 0 and is pruned first, with a
    warning.

    Memory: the mask and one float32, 5 bytes per connection.

    Args:
        decay: weight of the previous average, in [0, 1].

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning" (2019), equation 8.

    Example:
        >>> import torch
        >>> target = Target("w", torch.nn.Parameter(torch.tensor([2.0, -3.0])))
        >>> target.parameter.grad = torch.tensor([1.0, 1.0])
        >>> target.state = Taylor().init_state(target)
        >>> view = target.view(torch.ones(2, dtype=torch.bool))
        >>> Taylor(decay=0.5).observe(view)
        >>> Taylor().score(view).tolist()
        [2.0, 4.5]
    """

    decay: float = 0.9
    needs_gradients: ClassVar[bool] = True
    accumulates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("strategy taylor: decay", self.decay, 0, 1)

    def init_state(self, target: Target) -> dict[str, Tensor]:
        """Return ``sensitivity``: the average, float32, initially zero."""
        zeros = torch.zeros(target.values.shape, dtype=torch.float32, device=target.values.device)
        return {"sensitivity": zeros}

    def observe(self, target: TargetView) -> None:
        """Add one step's ``(w dL/dw)^2`` to the average; without a gradient nothing changes."""
        if target.grad is not None:
            change = target.weight.float() * target.grad
            target.state["sensitivity"].mul_(self.decay).addcmul_(change, change, value=1 - self.decay)

    def score(self, target: TargetView) -> Tensor:
        """Return the average over the steps so far."""
        return target.state["sensitivity"]
