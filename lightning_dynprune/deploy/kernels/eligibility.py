"""Find the layers that no kernel can replace, and the reasons."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from lightning_dynprune.deploy.compat import has_forward_hooks

_MAX_CALLS = 16  # calls of a layer with inputs of different sizes


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return every Linear of a model under its first name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def reasons_to_stay_dense(model: nn.Module) -> dict[str, str]:
    """Return the layers that no kernel can replace, and why, as far as the model alone shows.

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
    """Return why a layer cannot be timed on its captured inputs; None where it can.

    Args:
        layer: the layer.
        inputs: its inputs in one forward pass, in order (see :func:`capture_inputs`).
    """
    if not inputs:
        return "it was not called in the example's forward: its weight is read without a call, or not at all"
    for captured in inputs:
        if not isinstance(captured, Tensor) or captured.is_nested or captured.layout != torch.strided:
            return "its input is not a strided tensor"
        if captured.dtype != layer.weight.dtype:
            return f"its input is {captured.dtype}, its weight {layer.weight.dtype}"
        if not captured.numel():
            return "its input is empty"
    if len({captured.shape for captured in inputs}) > 1 and len(inputs) > _MAX_CALLS:
        return f"it was called {len(inputs)} times with inputs of different sizes"
    return None


def _reason(layer: nn.Linear, holders: Counter[int], names: Counter[int]) -> str | None:
    if nn.utils.parametrize.is_parametrized(layer):
        return "it is parametrized; remove the parametrization first"
    if type(layer) is not nn.Linear:
        return f"it is a {type(layer).__name__}, a subclass, which may compute something else"
    if "forward" in vars(layer):
        return "its forward was replaced"
    if has_forward_hooks(layer):
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
