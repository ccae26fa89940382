"""What arrives at a model's layers, and what leaves the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from lightning_dynprune.base import largest_magnitude, max_absolute_difference, nested_tensors


def capture_inputs(layers: Mapping[str, nn.Module], forward: Callable[[], object]) -> dict[str, list[Tensor]]:
    """Return copies of what arrives at each layer in one forward, in order; calls alike in shape are kept once.

    The layers' ``forward`` is replaced meanwhile; hooks would not do, for torch's transformer layers leave their fast
    path, which reads weights without a call, where any of their modules has one.

    Args:
        layers: name -> layer, none with a ``forward`` of its own.
        forward: runs the model that they are part of.
    """
    inputs: dict[str, list[Tensor]] = {name: [] for name in layers}

    def noting(layer: nn.Module, noted: list[Tensor]) -> Callable[[Tensor], Tensor]:
        own: Callable[[Tensor], Tensor] = layer.forward

        def forward(input: Tensor) -> Tensor:
            noted.append(input.detach().clone() if type(input) is Tensor else input)
            return own(input)

        return forward

    for name, layer in layers.items():
        layer.forward = noting(layer, inputs[name])
    try:
        forward()
    finally:
        for layer in layers.values():
            del layer.forward
    return {name: _alike_once(captured) for name, captured in inputs.items()}


def difference(output: object, expected: object) -> float:
    """Return the largest difference of two outputs' tensors, as a share of the largest expected value of each tensor.

    Integers and flags differ or do not: infinity or 0. Infinity too where number, shape or type of the tensors differ,
    or only one is finite.

    Example:
        >>> import torch
        >>> difference(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 4.0]))
        0.125
        >>> difference(torch.tensor([1]), torch.tensor([2]))
        inf
    """
    ours, theirs = nested_tensors(output), nested_tensors(expected)
    if len(ours) != len(theirs):
        return math.inf
    return max((_difference(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return math.inf
    gap = max_absolute_difference(theirs, ours)
    if not gap:
        return 0.0
    scale = largest_magnitude(theirs) if theirs.is_floating_point() or theirs.is_complex() else 0.0
    return gap / scale if scale else math.inf


def _alike_once(inputs: list[Tensor]) -> list[Tensor]:
    if all(isinstance(captured, Tensor) and captured.shape == inputs[0].shape for captured in inputs):
        return inputs[:1]
    return inputs
