"""The strategy ``sigmoid``: the sigmoid of a weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_dynprune.base import check_flag
from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.targets import TargetView


@STRATEGIES.register("sigmoid")
@dataclass(frozen=True)
class Sigmoid(Strategy):
    """Scores a connection by the sigmoid of its weight's size: ``1 / (1 + exp(-|w|))``.

    Use it with thresholds on the score's value, as all scores are in [0.5, 1); the order is that of magnitude. With
    ``signed`` the sigmoid is taken of ``w`` itself, as some texts on dynamic pruning have it, and large negative
    weights are pruned first.

    Memory: the mask, 1 byte per connection.

    Args:
        signed: whether the sigmoid is taken of ``w`` instead of ``|w|``.

    Example:
        >>> from lightning_dynprune.targets import Target
        >>> import torch
        >>> view = Target("w", torch.nn.Parameter(torch.tensor([0.0, -2.0]))).view(torch.ones(2, dtype=torch.bool))
        >>> [round(f, 3) for f in Sigmoid().score(view).tolist()]
        [0.5, 0.881]
        >>> [round(f, 3) for f in Sigmoid(signed=True).score(view).tolist()]
        [0.5, 0.119]
    """

    signed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("strategy sigmoid: signed", self.signed)

    def score(self, target: TargetView) -> Tensor:
        """Return the sigmoid of ``|w|``, or of ``w``."""
        weight = target.weight if self.signed else target.weight.abs()
        return weight.sigmoid()
