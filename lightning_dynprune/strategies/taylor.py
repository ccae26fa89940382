"""How much the loss would change, to first order."""

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
    """``(w dL/dw)^2``, averaged over steps: ``s <- decay s + (1 - decay) (w dL/dw)^2``.

    Remembers one float32 a connection (4 bytes). Gradients are read as the optimizer gets them; a pruned connection has
    w = 0 and so sinks towards 0. A target that no gradient ever reaches scores 0 and is pruned first, with a warning.

    Args:
        decay: weight of the past, in [0, 1].

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
        """Return ``sensitivity``: float32 zeros."""
        zeros = torch.zeros(target.values.shape, dtype=torch.float32, device=target.values.device)
        return {"sensitivity": zeros}

    def observe(self, target: TargetView) -> None:
        """Fold one step's ``(w dL/dw)^2`` into the average; a target without a gradient is left as it is."""
        if target.grad is not None:
            change = target.weight.float() * target.grad
            target.state["sensitivity"].mul_(self.decay).addcmul_(change, change, value=1 - self.decay)

    def score(self, target: TargetView) -> Tensor:
        """Return the average so far."""
        return target.state["sensitivity"]
