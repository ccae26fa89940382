"""The slots an optimizer keeps for a parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer


def slots(optimizers: Sequence[Optimizer], parameter: nn.Parameter) -> Iterator[Tensor]:
    """Yield every float tensor that an optimizer keeps entry for entry with a parameter.

    Momentum, second moments and the like; step counts and factored moments have another shape and are left out.

    Args:
        optimizers: torch optimizers.
        parameter: the parameter whose slots are asked for.
    """
    for optimizer in optimizers:
        if parameter not in optimizer.state:
            continue
        for value in optimizer.state[parameter].values():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point():
                yield value


def trains(optimizer: Optimizer, parameters: set[nn.Parameter]) -> bool:
    """Return whether an optimizer holds one of the parameters."""
    return any(p in parameters for group in optimizer.param_groups for p in group["params"])
