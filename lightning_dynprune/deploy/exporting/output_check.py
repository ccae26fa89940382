"""Compare the outputs of an exported file with the model's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_dynprune.base import max_absolute_difference
from lightning_dynprune.deploy.exporting.base import ExportError


def max_output_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest absolute difference of two lists of outputs; infinite where only one value is NaN or infinite.

    Raises:
        ExportError: the lists differ in length or in shapes.

    Example:
        >>> import torch
        >>> max_output_difference([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 2.5])])
        0.5
    """
    shapes = [tuple(tensor.shape) for tensor in found], [tuple(tensor.shape) for tensor in expected]
    if shapes[0] != shapes[1]:
        raise ExportError(f"its outputs have the shapes {shapes[0]}; the model's have {shapes[1]}")
    return max((max_absolute_difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)
