"""Weights that torch's layers do not hold: those of transformers' Conv1D, of mixtures of experts and of own modules."""

from __future__ import annotations

import re
from functools import lru_cache

from torch import nn
from torch.nn.parameter import UninitializedParameter

_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_NO_WEIGHT = re.compile("weight|bias|embed|token|table")  # layers' own names, tables, and learned inputs
_NO_EXPERT = re.compile("bias|embed|token|table")
_EXPERT = re.compile(r"(weights?|proj|(^|_)w\d*)$")


def is_conv1d(module: nn.Module) -> bool:
    """Return whether a module is the ``Conv1D`` of transformers, a linear layer whose weight is ``(inputs, outputs)``.

    The type is recognised by its name, so that transformers is not imported.
    """
    return _is_conv1d_type(type(module))  # type: ignore[arg-type]  # mypy takes Module.__hash__ for its own


@lru_cache
def _is_conv1d_type(kind: type) -> bool:
    return any(c.__name__ == "Conv1D" and c.__module__.partition(".")[0] == "transformers" for c in kind.mro())


def is_expert_weight(module: nn.Module, local: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter stacks the weight matrices of several experts, as Mixtral's ``experts.down_proj``.

    It is a floating-point parameter of three dimensions, each above 1, in a module of a type that torch does not have
    and that has no child with parameters; its name ends in ``weight``, ``proj`` or ``w1``, as those of experts do.
    """
    return (
        _is_own_module(module)
        and not isinstance(module, (nn.ParameterList, nn.ParameterDict))
        and not isinstance(parameter, UninitializedParameter)
        and parameter.is_floating_point()
        and parameter.dim() == 3
        and min(parameter.shape) > 1
        and _EXPERT.search(local) is not None
        and _NO_EXPERT.search(local) is None
        and not any(True for child in module.children() for _ in child.parameters())
    )


def is_own_matrix(module: nn.Module, local: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a matrix that the author of a module added, as LoRA's ``lora_A``.

    Matrices have at least two dimensions above 1, or exactly two; biases, embeddings, tokens and tables are left out,
    by name, and so are the parameters that a layer of torch brings along.
    """
    return (
        (_is_own_module(module) or type(module).__module__.partition(".")[0] != "torch")
        and not isinstance(parameter, UninitializedParameter)
        and (parameter.is_floating_point() or parameter.is_complex())
        and parameter.numel() > 1
        and (parameter.dim() == 2 or parameter.numel() > max(parameter.shape, default=0))
        and (_NO_EXPERT if _is_own_module(module) else _NO_WEIGHT).search(local) is None
    )


def has_inputs_first(module: nn.Module, local: str, parameter: nn.Parameter) -> bool:
    """Return whether a weight is stored as ``(inputs, outputs)``: that of a Conv1D, or a Keras kernel of a matrix."""
    return (is_conv1d(module) and local == "weight") or (_is_keras_kernel(module, local) and parameter.dim() == 2)


def has_known_layout(module: nn.Module, local: str, parameter: nn.Parameter) -> bool:
    """Return whether the dimensions of inputs and outputs are known.

    They are not for stacked experts, which some models multiply from the left and others from the right, and for the
    kernels of Keras convolutions, whose layout depends on the layer.
    """
    if _is_keras_kernel(module, local):
        return parameter.dim() <= 2
    return not is_expert_weight(module, local, parameter)


def _is_keras_kernel(module: nn.Module, local: str) -> bool:
    """Return whether a parameter is a kernel in the dictionary in which Keras holds a model's variables for torch."""
    return isinstance(module, nn.ParameterDict) and "/" in local and local.endswith("kernel")


def _is_own_module(module: nn.Module) -> bool:
    """Return whether a module has no parameters of a layer of torch: its first base of torch is a container."""
    first = next(c for c in type(module).mro() if c.__module__.partition(".")[0] == "torch")
    return first in _CONTAINERS
