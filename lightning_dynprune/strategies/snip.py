"""How much a connection matters to the loss before anything is trained."""

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
    """``|w dL/dw|`` of the first batch, at the initial weights.

    Where nothing else is given the network is pruned once: after the first backward pass and before the first optimizer
    step, by one cut over all targets. A larger first batch, or gradient accumulation, makes the score steadier. Keeps
    the mask alone (1 byte a connection).

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
            RuntimeError: there is no gradient.
        """
        return (target.weight * target.gradient()).abs()
