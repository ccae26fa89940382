"""The strategy ``fisher``: the squared weight times the optimizer's running average of squared gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.targets import TargetView


@STRATEGIES.register("fisher")
@dataclass(frozen=True)
class Fisher(Strategy):
    """Scores a connection by ``w^2 v``, with v the optimizer's own running average of squared gradients.

    v estimates the diagonal of the Fisher information, so that ``w^2 v`` is twice the second-order change of the loss
    when the connection is removed. Nothing is remembered and no step costs anything: v is read from Adam, AdamW, NAdam
    and RAdam (``exp_avg_sq``), RMSprop (``square_avg``) and Adagrad (``sum``). Factors that all connections share, such
    as a bias correction, do not change the order. Another optimizer is refused, and so is an update before the first
    step, when there is no average.

    Memory: the mask, 1 byte per connection.

    Source: Li, Dangel, Tam, Raffel, "Fishers for Free? Approximating the Fisher Information Matrix by Recycling the
    Squared Gradient Accumulator" (ICML 2025).

    Example:
        >>> import torch
        >>> from lightning_dynprune.targets import Target
        >>> view = Target("w", torch.nn.Parameter(torch.tensor([2.0, -3.0]))).view(torch.ones(2, dtype=torch.bool))
        >>> view.squared_gradients = torch.tensor([1.0, 0.5])
        >>> Fisher().score(view).tolist()
        [4.0, 4.5]
    """

    needs_squared_gradients: ClassVar[bool] = True

    def score(self, target: TargetView) -> Tensor:
        """Return ``w^2 v``."""
        return target.weight.float().square() * target.averaged_squares()
