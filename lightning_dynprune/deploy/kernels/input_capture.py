"""Capture the inputs of a model's layers, and compare outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from lightning_dynprune.base import largest_magnitude, max_absolute_difference, nested_tensors


def capture_inputs(layers: Mapping[str, nn.Module], forward: Callable[[], object]) -> dict[str, list[Tensor]]:
    """Return copies of each layer's inputs in one forward pass, in order; only the first if all have one shape.

    Each layer's ``forward`` is replaced during the pass. Hooks cannot be used: with a hook on any of their modules,
    torch's transformer layers leave their fast path, which reads weights without calling the layer.

    Args:
        layers: name -> layer, none with an instance attribute ``forward``.
        forward: runs the model that contains the layers.
    """
    inputs: dict[str, list[Tensor]] = {name: [] for name in layers}

    def recording(layer: nn.Module, recorded: list[Tensor]) -> Callable[[Tensor], Tensor]:
        original: Callable[[Tensor], Tensor] = layer.forward

        def forward(input: Tensor) -> Tensor:
            recorded.append(input.detach().clone() if type(input) is Tensor else input)
            return original(input)

        return forward

    for name, layer in layers.items():
        layer.forward = recording(layer, inputs[name])
    try:
        forward()
    finally:
        for layer in layers.values():
            del layer.forward
    return {name: _first_if_same_shape(captured) for name, captured in inputs.items()}


def relative_difference(output: object, expected: object) -> float:
    """Return the largest difference of two outputs' tensors, each relative to the largest expected value of its tensor.

    Unequal integers and bools count as infinity. The result is infinity too where the number, shape or dtype of the
    tensors differ, or where only one of them is finite.

    Example:
        >>> import torch
        >>> relative_difference(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 4.0]))
        0.125
        >>> relative_difference(torch.tensor([1]), torch.tensor([2]))
        inf
    """
    found, wanted = nested_tensors(output), nested_tensors(expected)
    if len(found) != len(wanted):
        return math.inf
    return max((_tensor_difference(a, b) for a, b in zip(found, wanted, strict=True)), default=0.0)


def _tensor_difference(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return math.inf
    largest = max_absolute_difference(wanted, found)
    if not largest:
        return 0.0
    scale = largest_magnitude(wanted) if wanted.is_floating_point() or wanted.is_complex() else 0.0
    return largest / scale if scale else math.inf


def _first_if_same_shape(inputs: list[Tensor]) -> list[Tensor]:
    if all(isinstance(captured, Tensor) and captured.shape == inputs[0].shape for captured in inputs):
        return inputs[:1]
    return inputs
