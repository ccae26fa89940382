"""The parts of torch that this room uses without a documented interface.

If ``TorchDispatchMode`` changes, :func:`coupled_groups` sees no operations of a model: it must call
``__torch_dispatch__`` for each of torch's basic operations, with the tensors that the forward pass uses, and with
composite operations already taken apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

# Called with an operation, its positional and keyword arguments, and what it returned.
Listener: TypeAlias = "Callable[[torch._ops.OpOverload, tuple[Any, ...], Mapping[str, Any], Any], None]"


class OperationListener(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, calls a function after every basic operation of torch.

    Args:
        listener: called with the operation, its arguments and its result; its own operations are not listened to.
    """

    def __init__(self, listener: Listener) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._listener = listener

    def __torch_dispatch__(
        self, func: torch._ops.OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and tell the listener."""
        result = func(*args, **(kwargs or {}))
        self._listener(func, args, kwargs or {}, result)
        return result


def without_listeners() -> AbstractContextManager[Any]:
    """Return a context in which no listener is called."""
    return _disable_current_modes()


def operation_name(func: torch._ops.OpOverload) -> str:
    """Return the name of an operation without namespace and overload, such as ``"add_"``."""
    return str(func.overloadpacket.__name__)


def is_entrywise(func: torch._ops.OpOverload) -> bool:
    """Return whether each entry of an operation's result depends on the same entry of each argument only."""
    return torch.Tag.pointwise in func.tags


def changes_arguments(func: torch._ops.OpOverload) -> bool:
    """Return whether an operation writes into its first argument."""
    return bool(func._schema.is_mutable)


def named_arguments(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operation by name, with defaults."""
    found = {}
    for position, argument in enumerate(func._schema.arguments):
        if position < len(args):
            found[argument.name] = args[position]
        else:
            found[argument.name] = kwargs.get(argument.name, argument.default_value)
    return found
