"""The strategy ``snip``: the loss's sensitivity to a connection at initialization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.targets import TargetView


@STRATEGIES.register("snip")
@dataclass(frozen=True)
class SNIP(Strategy):
    """Scores a connection by the sensitivity of the loss to it on the first batch: ``|w dL/dw|``.

    Use it to prune an untrained network once and train what is left. By default the network is pruned after the first
    backward pass and before the first optimizer step, by one cut over all targets. A larger first batch, or gradient
    accumulation, reduces the noise of the score.

    Memory: the mask, 1 byte per connection.

    Source: Lee, Ajanthan, Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity" (2019), equation 6.

    Example:
        >>> import torch
        >>> from lightning_dynprune.targets import Target
        >>> target = Target("w", torch.nn.Parameter(torch.tensor([3.0, -1.0])))
        >>> target.parameter.grad = torch.tensor([0.5, 2.0])
        >>> SNIP().score(target.view(torch.ones(2, dtype=torch.bool))).tolist()
        [1.5, 2.0]
    """

    needs_gradients: ClassVar[bool] = True
    schedule: ClassVar[Mapping[str, Any]] = {"name": "one_shot", "begin": 0}

    def score(self, target: TargetView) -> Tensor:
        """Return ``|w dL/dw|``.

        Raises:
            RuntimeError: the target has no gradient.
        """
        return (target.weight * target.gradient()).abs()
