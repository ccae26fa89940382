"""Compare the outputs of two models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def max_absolute_difference(expected: Tensor, found: Tensor) -> float:
    """Return the largest absolute difference of two tensors of one shape; equal infinities and two NaN count as 0.

    Infinite where a value is NaN or infinite in one of them alone.

    Example:
        >>> max_absolute_difference(torch.tensor([1.0, torch.nan]), torch.tensor([1.5, torch.nan]))
        0.5
    """
    a, b = _in_double(expected), _in_double(found)
    difference = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
    largest = float(difference.max()) if difference.numel() else 0.0
    return math.inf if math.isnan(largest) else largest


def max_relative_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest difference of two lists of outputs, each over the largest expected value of its tensor.

    Infinite where the numbers of tensors or their shapes differ. Where all expected values are zero, the difference is
    absolute.

    Example:
        >>> max_relative_difference([torch.tensor([1.0, 4.0])], [torch.tensor([1.0, 4.5])])
        0.125
    """
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return math.inf
    pairs = zip(expected, found, strict=True)
    return max((max_absolute_difference(a, b) / (largest_magnitude(a) or 1.0) for a, b in pairs), default=0.0)


def largest_magnitude(tensor: Tensor) -> float:
    """Return the largest finite absolute value of a tensor; 0 where it has none.

    Example:
        >>> largest_magnitude(torch.tensor([1.0, -2.0, torch.inf]))
        2.0
    """
    finite = tensor[tensor.isfinite()]
    return float(_in_double(finite).abs().max()) if finite.numel() else 0.0


def _in_double(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)
