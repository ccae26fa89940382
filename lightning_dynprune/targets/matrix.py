"""Conversion between a weight and its matrix, with one row per output and one column per input."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def as_matrix(tensor: Tensor, transposed: bool) -> Tensor:
    """Return a tensor as a matrix ``(outputs, inputs)``; the kernel of a convolution is part of the columns.

    Args:
        tensor: a tensor of a weight's shape, of at least two dimensions.
        transposed: whether its first dimension is that of the inputs.

    Example:
        >>> import torch
        >>> as_matrix(torch.zeros(8, 4, 3, 3), transposed=False).shape
        torch.Size([8, 36])
    """
    return (tensor.transpose(0, 1) if transposed else tensor).flatten(1)


def from_matrix(matrix: Tensor, shape: Sequence[int], transposed: bool) -> Tensor:
    """Return a matrix made by :func:`as_matrix` in the weight's shape again."""
    if not transposed:
        return matrix.reshape(shape)
    return matrix.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1)
