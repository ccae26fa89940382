"""The slots an optimizer keeps for a parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Adagrad, Optimizer, Rprop

from lightning_dynprune.masks import integer_pieces


def slots(optimizers: Sequence[Optimizer], parameter: nn.Parameter) -> Iterator[tuple[Tensor, float]]:
    """Yield every float tensor that an optimizer keeps entry for entry with a parameter, and what it starts from.

    Momentum, second moments and the like; step counts and factored moments have another shape and are left out.

    Args:
        optimizers: torch optimizers.
        parameter: the parameter whose slots are asked for.
    """
    for optimizer in optimizers:
        if parameter not in optimizer.state:
            continue
        for name, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point():
                yield value, _start(optimizer, parameter, name)


@torch.no_grad()
def clear(optimizers: Sequence[Optimizer], parameter: nn.Parameter, keep: Tensor) -> None:
    """Set a parameter's slots back to what they start from, except where ``keep`` is True.

    Args:
        optimizers: torch optimizers.
        parameter: the parameter whose slots are cleared.
        keep: bool, shaped like the parameter.
    """
    for slot, start in slots(optimizers, parameter):
        for values, mask in integer_pieces(slot, keep):
            values.mul_(mask)
        if start:
            slot.masked_fill_(~keep, start)


def trains(optimizer: Optimizer, parameters: set[nn.Parameter]) -> bool:
    """Return whether an optimizer holds one of the parameters."""
    return any(p in parameters for group in optimizer.param_groups for p in group["params"])


def _start(optimizer: Optimizer, parameter: nn.Parameter, slot: str) -> float:
    """Return what an optimizer fills a slot with at first: zero, but for two of torch's."""
    if (isinstance(optimizer, Rprop) and slot == "step_size") or (isinstance(optimizer, Adagrad) and slot == "sum"):
        group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
        return float(group["lr"] if slot == "step_size" else group["initial_accumulator_value"])
    return 0.0
