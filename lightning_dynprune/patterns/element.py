"""Every connection for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_dynprune.patterns.base import PATTERNS, TargetPattern
from lightning_dynprune.targets import Target


@PATTERNS.register("element")
@dataclass(frozen=True)
class Element(TargetPattern):
    """Single connections: the best accuracy at a given sparsity, and the hardest to turn into speed.

    Example:
        >>> import torch
        >>> target = Target("w", torch.nn.Parameter(torch.zeros(2, 2)))
        >>> Element().expand(target, torch.tensor([True, False, False, True])).tolist()
        [[True, False], [False, True]]
    """

    elementwise: ClassVar[bool] = True

    def pool(self, target: Target, scores: Tensor) -> Tensor:
        """Return the scores in flat order."""
        return scores.reshape(-1)

    def expand(self, target: Target, keep: Tensor) -> Tensor:
        """Return the mask in the target's shape."""
        return keep.view(target.parameter.shape)
