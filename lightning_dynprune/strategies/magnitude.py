"""The strategy ``magnitude``: the size of a weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_dynprune.strategies.base import STRATEGIES, Strategy
from lightning_dynprune.targets import TargetView


@STRATEGIES.register("magnitude")
@dataclass(frozen=True)
class Magnitude(Strategy):
    """Scores a connection by the size of its weight: ``|w|`` or ``w^2``.

    Use it for trained networks, and as the baseline of other scores. Both norms order single
    connections alike; they differ for thresholds on the score's value and for patterns that add scores up.

    Memory: the mask, 1 byte per connection.

    Args:
        norm: 1 for ``|w|``, 2 for ``w^2``.

    Raises:
        ValueError: another norm.

    Source: Han et al., "Learning both Weights and Connections" (2015), section 3.

    Example:
        >>> from lightning_dynprune.targets import Target
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -3.0]))
        >>> Magnitude(norm=2).score(Target("w", weight).view(torch.ones(2, dtype=torch.bool))).tolist()
        [1.0, 9.0]
    """

    norm: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.norm, bool) or self.norm not in (1, 2):
            raise ValueError(f"strategy magnitude: norm={self.norm!r} is not accepted; give 1 or 2")

    def score(self, target: TargetView) -> Tensor:
        """Return ``|w|^norm``."""
        return target.weight.abs() if self.norm == 1 else target.weight.square()
