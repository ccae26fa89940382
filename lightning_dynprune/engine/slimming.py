"""Units out of a model, while it trains and after a checkpoint of one that has lost some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_dynprune.masks import KeptEntries, narrow_slots

if TYPE_CHECKING:
    from lightning_dynprune.coupling import Group


def take_out(
    model: nn.Module, groups: Sequence[Group], alive: Sequence[Tensor], optimizers: Sequence[Optimizer]
) -> dict[str, dict[int, Tensor]]:
    """Take the units that do not live out of all tensors, and let the optimizers' slots follow.

    Args:
        model: owns the tensors; as before where anything fails.
        groups: of units.
        alive: for each of them, bool, one a unit.
        optimizers: what trains the model.

    Returns:
        Tensor name -> dimension -> the positions that stayed, int64.

    Raises:
        ValueError: an optimizer keeps something that cannot follow.
    """
    from lightning_dynprune.coupling import Narrowing

    parameters = dict(model.named_parameters())
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    change = Narrowing(model)
    try:
        stayed = change.narrow(groups, alive)
        narrow_slots(
            optimizers, {parameters[n]: KeptEntries(shapes[n], dims) for n, dims in stayed.items() if n in parameters}
        )
    except BaseException:
        change.undo()
        raise
    return stayed


def fit_to(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a freshly built model the shapes of one that has been slimmed, so that its weights can be loaded.

    Args:
        model: the network as it was built; tensors that are no larger than there stay.
        state: a state dict of the slim one.
    """
    from lightning_dynprune.coupling import Narrowing

    change = Narrowing(model)
    for name, tensor in change.tensors.items():
        smaller = state.get(name)
        if smaller is None or smaller.dim() != tensor.dim() or smaller.shape == tensor.shape:
            continue
        if all(there <= here for there, here in zip(smaller.shape, tensor.shape, strict=True)):
            change.set(name, smaller.detach().to(tensor.device, tensor.dtype, copy=True))
    change.update_widths()
