"""The sigmoid of a weight as its importance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_dynprune.base import check_flag
from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.targets import TargetView


@STRATEGIES.register("sigmoid")
@dataclass(frozen=True)
class Sigmoid(Strategy):
    """``f(w) = 1 / (1 + exp(-w))``, of ``|w|`` unless ``signed``.

    On ``|w|`` it orders connections as magnitude does, with values in [0.5, 1). On the signed weight, as dynamic
    pruning is sometimes written up, the strong negative connections are the first to go. Keeps the mask alone (1 byte a
    connection).

    Args:
        signed: score the weight itself instead of its size.

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
        """Return ``f(w)`` or ``f(|w|)``."""
        weight = target.weight if self.signed else target.weight.abs()
        return weight.sigmoid()
