"""How far what a file computes is from what the model computes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_dynprune.deploy.exporting.base import ExportError


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest absolute difference of two lists of outputs; infinite where one alone is NaN or infinite.

    Raises:
        ExportError: they differ in number or shape.

    Example:
        >>> difference([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 2.5])])
        0.5
    """
    shapes = [tuple(tensor.shape) for tensor in found], [tuple(tensor.shape) for tensor in expected]
    if shapes[0] != shapes[1]:
        raise ExportError(f"its outputs have the shapes {shapes[0]}; the model's have {shapes[1]}")
    return max((_largest(a.double(), b.double()) for a, b in zip(found, expected, strict=True)), default=0.0)


def _largest(a: Tensor, b: Tensor) -> float:
    apart = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
    largest = float(apart.max()) if apart.numel() else 0.0
    return math.inf if math.isnan(largest) else largest
