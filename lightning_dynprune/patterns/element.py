"""The pattern ``element``: single connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_dynprune.patterns.base import PATTERNS, TargetPattern
from lightning_dynprune.targets import Target


@PATTERNS.register("element")
@dataclass(frozen=True)
class Element(TargetPattern):
    """Prunes single connections, each by its own score.

    This pattern keeps the most accuracy at a given sparsity and is the hardest to turn into speed.

    Example:
        >>> import torch
        >>> target = Target("w", torch.nn.Parameter(torch.zeros(2, 2)))
        >>> Element().expand(target, torch.tensor([True, False, False, True])).tolist()
        [[True, False], [False, True]]
    """

    elementwise: ClassVar[bool] = True

    def pool(self, target: Target, scores: Tensor) -> Tensor:
        """Return the scores flattened."""
        return scores.reshape(-1)

    def expand(self, target: Target, keep: Tensor) -> Tensor:
        """Return ``keep`` in the target's shape."""
        return keep.view(target.parameter.shape)
