"""Layers that stay dense, and why."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

_MOST_CALLS = 16  # calls of a layer, of different sizes, that are measured one by one


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return every Linear of a model under the first of its names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def reasons_to_stay_dense(model: nn.Module) -> dict[str, str]:
    """Return the layers that no kernel may stand in for, and why, as far as the model itself tells.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        >>> model[1].weight = model[0].weight
        >>> reasons_to_stay_dense(model)["1"]
        'its weight is tied: 2 modules hold it'
    """
    holders = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    found = {name: _reason(layer, holders, names) for name, layer in linear_layers(model).items()}
    return {name: reason for name, reason in found.items() if reason is not None}


def reason_not_measurable(layer: nn.Linear, inputs: list[Tensor]) -> str | None:
    """Return why what captured at a layer in one forward cannot be measured; None where it can.

    Args:
        layer: the layer.
        inputs: what captured, in order (see :func:`capture_inputs`).
    """
    if not inputs:
        return "it was not called in the example's forward: its weight is read without a call, or not at all"
    for captured in inputs:
        if not isinstance(captured, Tensor) or captured.is_nested or captured.layout != torch.strided:
            return "its input is no plain tensor"
        if captured.dtype != layer.weight.dtype:
            return f"its input is {captured.dtype}, its weight {layer.weight.dtype}"
        if not captured.numel():
            return "its input is empty"
    if len({captured.shape for captured in inputs}) > 1 and len(inputs) > _MOST_CALLS:
        return f"it was called {len(inputs)} times with inputs of different sizes"
    return None


def _reason(layer: nn.Linear, holders: Counter[int], names: Counter[int]) -> str | None:
    if nn.utils.parametrize.is_parametrized(layer):
        return "it is parametrized; remove the parametrization first"
    if type(layer) is not nn.Linear:
        return f"it is a {type(layer).__name__}, which may compute or be read otherwise"
    if "forward" in vars(layer):
        return "its forward was replaced"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has hooks"
    if type(layer.weight) is not nn.Parameter or not layer.weight.is_floating_point():
        return f"its weight is a {type(layer.weight).__name__} of {layer.weight.dtype}"
    if names[id(layer)] > 1:
        return f"it is shared: the model names it {names[id(layer)]} times"
    if holders[id(layer.weight)] > 1:
        return f"its weight is tied: {holders[id(layer.weight)]} modules hold it"
    if layer.bias is not None and holders[id(layer.bias)] > 1:
        return f"its bias is tied: {holders[id(layer.bias)]} modules hold it"
    return None
