"""A target as a matrix: a row for each output, a column for each of its inputs."""

from __future__ import annotations

from torch import Tensor

from lightning_dynprune.targets import Target


def as_matrix(target: Target, tensor: Tensor) -> Tensor:
    """Return a tensor shaped like the target as ``(outputs, inputs)``; a convolution's kernel lies in the columns.

    Args:
        target: has two dimensions or more.
        tensor: shaped like it.

    Example:
        >>> import torch
        >>> target = Target("conv.weight", torch.nn.Parameter(torch.zeros(8, 4, 3, 3)))
        >>> as_matrix(target, target.parameter).shape
        torch.Size([8, 36])
    """
    return (tensor.transpose(0, 1) if target.transposed else tensor).flatten(1)


def from_matrix(target: Target, matrix: Tensor) -> Tensor:
    """Return what :func:`as_matrix` made a matrix of, in the target's shape."""
    shape = target.parameter.shape
    if not target.transposed:
        return matrix.reshape(shape)
    return matrix.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1)
