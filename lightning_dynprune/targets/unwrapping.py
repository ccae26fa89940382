"""What trains is often handed around in a wrapper: the model and the optimizers that are in it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

# Where a compiled module (torch.compile) and a module of Lightning Fabric keep the one that was wrapped.
_INSIDE = ("_orig_mod", "_original_module")


def unwrapped_model(model: nn.Module) -> nn.Module:
    """Return the module whose parameters have their own names, out of any wrapper of torch or Lightning Fabric.

    Args:
        model: a module, compiled, data-parallel, set up by Fabric, or none of these.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> unwrapped_model(nn.DataParallel(net)) is net
        True
    """
    while True:
        names = ("module",) if isinstance(model, (DataParallel, DistributedDataParallel)) else _INSIDE
        inside = next((m for name in names if isinstance(m := getattr(model, name, None), nn.Module)), None)
        if inside is None:
            return model
        model = inside


def unwrapped_optimizers(given: object) -> list[Optimizer]:
    """Return the torch optimizers that step, out of wrappers that only pass on, such as Lightning Fabric's.

    Args:
        given: an optimizer, a sequence of optimizers, or None.

    Raises:
        TypeError: something else, such as an optimizer of another library.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD(nn.Linear(2, 2).parameters())
        >>> unwrapped_optimizers(sgd) == unwrapped_optimizers([sgd]) == [sgd]
        True
    """
    if given is None:
        return []
    found = []
    for optimizer in given if isinstance(given, Iterable) else [given]:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer={type(optimizer).__name__} is not accepted; give a torch.optim.Optimizer or a sequence of "
                "them, or none with strategy='magnitude', where another library steps"
            )
        # One that has parameters of its own, such as Lookahead, does more at a step than the optimizer inside it.
        while "param_groups" not in vars(optimizer) and isinstance(
            inside := getattr(optimizer, "optimizer", None), Optimizer
        ):
            optimizer = inside
        found.append(optimizer)
    return found
