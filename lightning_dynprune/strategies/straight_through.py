"""Magnitude of weights that train on behind the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.targets import TargetView


@STRATEGIES.register("straight_through")
@dataclass(frozen=True)
class StraightThrough(Strategy):
    """``|w|`` of latent weights: forward with ``w * m``, the gradient reaches every ``w``.

    A pruned connection trains on as if it were there, and returns when its weight outgrows the cut. Keeps the latent
    values (4 bytes a connection for float32) beside the mask (1 byte).

    An optimizer that scales its steps by the gradient's size, as Adam does, moves a pruned weight as fast as any other
    however small its gradient is; SGD with momentum, which the sources use, does not.

    Source: Lin et al., "Dynamic Model Pruning with Feedback" (2020), equation 2; Bengio et al. (2013) for the
    estimator.

    Example:
        The whole of the weights is scored, also what is masked:

        >>> import torch
        >>> from lightning_dynprune.engine import Pruner
        >>> net = torch.nn.Linear(4, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, -2.0, 3.0, -4.0]]))
        >>> sgd = torch.optim.SGD(net.parameters(), lr=1.0)
        >>> schedule = {"name": "constant", "begin": 1, "end": 2, "every": 1}
        >>> pruner = Pruner(net, sgd, strategy="straight_through", sparsity=0.5, schedule=schedule)
        >>> net.weight.grad = torch.zeros(1, 4)
        >>> sgd.step(); _ = pruner.tick()
        >>> net.weight.tolist()
        [[0.0, 0.0, 3.0, -4.0]]
        >>> net.weight.grad = torch.tensor([[0.0, 3.0, 0.0, 0.0]])
        >>> sgd.step(); _ = pruner.tick()
        >>> net.weight.tolist()
        [[0.0, -5.0, 0.0, -4.0]]
    """

    latent: ClassVar[bool] = True

    def score(self, target: TargetView) -> Tensor:
        """Return ``|w|``."""
        return target.weight.abs()
