"""Conversion between a target and its weight matrix, with one row per output and one column per input."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_dynprune.targets import Target


def as_matrix(target: Target, tensor: Tensor) -> Tensor:
    """Return a tensor as a matrix ``(outputs, inputs)``; the kernel of a convolution is part of the columns.

    Args:
        target: a target of at least two dimensions.
        tensor: a tensor of the target's shape.

    Example:
        >>> import torch
        >>> target = Target("conv.weight", torch.nn.Parameter(torch.zeros(8, 4, 3, 3)))
        >>> as_matrix(target, target.parameter).shape
        torch.Size([8, 36])
    """
    return (tensor.transpose(0, 1) if target.transposed else tensor).flatten(1)


def from_matrix(target: Target, matrix: Tensor) -> Tensor:
    """Return a matrix made by :func:`as_matrix` in the target's shape again."""
    shape = target.parameter.shape
    if not target.transposed:
        return matrix.reshape(shape)
    return matrix.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1)


def check_layouts(label: str, targets: Sequence[Target]) -> None:
    """Raise if it is not known which dimensions of a target are its inputs.

    Args:
        label: the pattern, for the message.
        targets: all targets of the run.

    Raises:
        ValueError: a target has an unknown layout; the message names it and what is accepted.
    """
    for target in targets:
        if not target.known_layout:
            shape = tuple(target.parameter.shape)
            raise ValueError(
                f"pattern {label}: it is not known which dimensions of {target.name}, of shape {shape}, are inputs; "
                "exclude it, or give pattern='element'"
            )
