"""Call a model with an example input: a tensor, a tuple or list of arguments, or a mapping of keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def split_arguments(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the keyword arguments that an example input stands for.

    Args:
        example_input: one argument, a tuple or list of arguments, or a mapping of keyword arguments.

    Example:
        >>> split_arguments([1, 2]), split_arguments({"x": 1}), split_arguments(1)
        (((1, 2), {}), ((), {'x': 1}), ((1,), {}))
    """
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    return (tuple(example_input) if isinstance(example_input, (tuple, list)) else (example_input,)), {}


def call_model(model: nn.Module, example_input: Any) -> Any:
    """Return a model's outputs for an example input (see :func:`split_arguments`)."""
    args, kwargs = split_arguments(example_input)
    return model(*args, **kwargs)
