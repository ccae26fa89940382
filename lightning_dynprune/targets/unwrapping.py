"""Find the model and the optimizers inside wrappers such as DDP, ``torch.compile`` and Lightning Fabric."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from lightning_dynprune.targets.compat import wrapped_module


def unwrapped_model(model: nn.Module) -> nn.Module:
    """Return the module inside any number of wrappers of torch or Lightning Fabric, so that names have no prefix.

    Args:
        model: a module: compiled, data-parallel, set up by Fabric, or plain.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> unwrapped_model(nn.DataParallel(net)) is net
        True
    """
    while True:
        is_parallel = isinstance(model, (DataParallel, DistributedDataParallel))
        inner = model.module if is_parallel else wrapped_module(model)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def unwrapped_optimizers(given: object) -> list[Optimizer]:
    """Return the torch optimizers inside wrappers that only delegate, such as those of Lightning Fabric.

    Args:
        given: an optimizer, a sequence of optimizers, or None.

    Raises:
        TypeError: any other object, such as an optimizer of another library.

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
        # A wrapper with parameters of its own, such as Lookahead, does more at a step than the optimizer inside it.
        while "param_groups" not in vars(optimizer) and isinstance(
            inner := getattr(optimizer, "optimizer", None), Optimizer
        ):
            optimizer = inner
        found.append(optimizer)
    return found
