"""The strategy ``straight_through``: the size of latent weights that train behind the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.targets import TargetView


@STRATEGIES.register("straight_through")
@dataclass(frozen=True)
class StraightThrough(Strategy):
    """Scores a connection by the size of its latent weight: ``|w|``.

    The forward pass uses ``w * m`` with the mask ``m``, and the gradient is applied to every ``w``, pruned or not, so a
    pruned connection returns when its latent weight exceeds the cut. Use it, with SGD, where pruned connections should
    be able to return gradually.

    Adam and other optimizers that scale steps by the gradient's size move a pruned weight as fast as any other, however
    small its gradient is. SGD with momentum, which the sources use, does not.

    Memory: the mask and the latent values, 5 bytes per connection for float32 weights.

    Source: Lin et al., "Dynamic Model Pruning with Feedback" (2020), equation 2; Bengio et al. (2013) for the
    estimator.

    Example:
        Pruned weights are scored too, so the second weight returns after a large gradient:

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
