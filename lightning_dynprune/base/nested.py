"""Find or replace the tensors inside nested containers, such as a model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor


def nested_tensors(value: Any) -> list[Tensor]:
    """Return the tensors inside tuples, lists, mappings and objects with attributes (dataclasses), in their order.

    Args:
        value: a tensor, or containers nested to any depth; everything else in them is skipped.

    Example:
        >>> import torch
        >>> [t.item() for t in nested_tensors({"a": torch.tensor(1), "b": (torch.tensor(2), None)})]
        [1, 2]
    """
    if isinstance(value, Tensor):
        return [value]
    entries: Iterable[Any]
    if isinstance(value, Mapping):
        entries = value.values()
    elif isinstance(value, (tuple, list)):
        entries = value
    else:
        entries = vars(value).values() if hasattr(value, "__dict__") else ()
    return [tensor for entry in entries for tensor in nested_tensors(entry)]


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Return ``value`` with ``function`` applied to each tensor inside its tuples, lists and mappings.

    Example:
        >>> import torch
        >>> map_tensors(torch.neg, {"a": (torch.tensor(1), 2)})
        {'a': (tensor(-1), 2)}
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(function, entry) for entry in value)
    return value
