"""The slots an optimizer keeps for a parameter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor, nn
from torch.optim import LBFGS, Adafactor, Adagrad, Optimizer, Rprop

from lightning_dynprune.distributed import local_part
from lightning_dynprune.masks.mask_set import integer_pieces, select_along


def slots(optimizers: Sequence[Optimizer], parameter: nn.Parameter) -> Iterator[tuple[Tensor, float]]:
    """Yield every float tensor that an optimizer keeps entry for entry with a parameter, and what it starts from.

    Of a sharded parameter, the part that this process holds.

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
                yield local_part(value), _start(optimizer, parameter, name)


@torch.no_grad()
def reset_slots(optimizers: Sequence[Optimizer], parameter: nn.Parameter, keep: Tensor) -> None:
    """Set a parameter's slots back to what they start from, except where ``keep`` is True.

    LBFGS has one history for all its parameters, of steps in a space that a new mask has changed: it starts anew.

    Args:
        optimizers: torch optimizers.
        parameter: the parameter whose slots are cleared.
        keep: bool, shaped like the parameter, or the part of it that this process holds.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, LBFGS) and optimizer_holds(optimizer, {parameter}):
            optimizer.state.clear()
    for slot, start in slots(optimizers, parameter):
        for values, mask in integer_pieces(slot, keep):
            values.mul_(mask)
        if start:
            slot.masked_fill_(~keep, start)


def applied_gradient(optimizer: Optimizer, grad: Tensor) -> Tensor:
    """Return a gradient as an optimizer that is about to step applies it.

    A fused optimizer is handed the gradients of a scaled loss and divides by the scale within its step. Where they
    overflowed that step moves nothing, so zero stands for the gradient. No host sync.

    Args:
        optimizer: a torch optimizer.
        grad: of one of its parameters.
    """
    overflowed = getattr(optimizer, "found_inf", None)
    if overflowed is None:
        return grad
    grad, scale = grad.float(), getattr(optimizer, "grad_scale", None)
    if scale is not None:
        grad = grad / scale.to(grad.device)
    return torch.where(overflowed.to(grad.device).bool(), 0.0, grad)


@dataclass(frozen=True)
class KeptEntries:
    """Which entries of a parameter were left when it got smaller.

    Attributes:
        shape: of the parameter before.
        positions: dimension -> positions along it that stayed, int64; all stayed along the others.
    """

    shape: Size
    positions: Mapping[int, Tensor]


@torch.no_grad()
def narrow_slots(optimizers: Sequence[Optimizer], moves: Mapping[nn.Parameter, KeptEntries]) -> None:
    """Let the slots of parameters that got smaller follow them, entry for entry.

    A slot of the parameter's old shape loses the entries that the parameter lost, a factored one (Adafactor's) its rows
    or columns; step counts and the like stay. Where the entries that went were zero, gradients too, an optimizer that
    works entry by entry goes on as if they were still there. Adafactor and Muon do not: their steps are scaled by the
    tensor's size, and it is another. Adafactor's factors are means over the dimension that got shorter, and are scaled
    so that their product stays the same. LBFGS has one history for all its parameters; it is cleared, with a warning,
    and starts anew.

    Args:
        optimizers: torch optimizers; those that know none of the parameters are left as they are.
        moves: parameter, already smaller, -> what stayed of it.

    Raises:
        ValueError: an optimizer keeps a slot that fits neither the parameter nor its rows or columns; nothing has been
            changed then.

    Example:
        >>> weight = nn.Parameter(torch.ones(3))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> weight.grad = torch.tensor([1.0, 2.0, 3.0])
        >>> optimizer.step()
        >>> weight.grad, weight.data = None, weight.data[1:]
        >>> narrow_slots([optimizer], {weight: KeptEntries(torch.Size([3]), {0: torch.tensor([1, 2])})})
        >>> optimizer.state[weight]["momentum_buffer"].tolist()
        [2.0, 3.0]
    """
    NarrowedSlots(optimizers, moves).assign()


class NarrowedSlots:
    """The slots of parameters that got smaller, made but not yet assigned; see :func:`narrow_slots`.

    Args:
        optimizers: torch optimizers.
        moves: parameter, already smaller, -> what stayed of it.

    Raises:
        ValueError: an optimizer keeps a slot that fits neither the parameter nor its rows or columns.
    """

    @torch.no_grad()
    def __init__(self, optimizers: Sequence[Optimizer], moves: Mapping[nn.Parameter, KeptEntries]) -> None:
        self._slots = [
            (optimizer, parameter, name, _narrowed(optimizer, name, slot, stayed))
            for optimizer in optimizers
            if not isinstance(optimizer, LBFGS)
            for parameter, stayed in moves.items()
            for name, slot in optimizer.state.get(parameter, {}).items()
            if isinstance(slot, Tensor) and slot.dim() and slot.numel() > 1
        ]
        self._restarted = [o for o in optimizers if isinstance(o, LBFGS) and optimizer_holds(o, set(moves))]

    def assign(self) -> None:
        """Put the slots into the optimizers; a second call changes nothing."""
        for optimizer, parameter, name, slot in self._slots:
            optimizer.state[parameter][name] = slot
        for optimizer in self._restarted:
            lost = bool(optimizer.state)
            optimizer.state.clear()
            optimizer._numel_cache = None
            if lost:
                warnings.warn("LBFGS: its history does not fit the smaller parameters and starts anew", stacklevel=3)


def _narrowed(optimizer: Optimizer, name: str, slot: Tensor, stayed: KeptEntries) -> Tensor:
    fits = slot.dim() == len(stayed.shape) and all(
        size in (1, whole) for size, whole in zip(slot.shape, stayed.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{type(optimizer).__name__} keeps {name!r} of shape {tuple(slot.shape)} for a parameter of shape "
            f"{tuple(stayed.shape)}, which cannot follow it when it gets smaller; slim at the end, without optimizer"
        )
    for dim, positions in stayed.positions.items():
        whole = stayed.shape[dim]
        if slot.shape[dim] == whole:
            slot = select_along(slot, dim, positions)
        elif isinstance(optimizer, Adafactor):
            slot = slot * (whole / len(positions))
    return slot


def optimizer_holds(optimizer: Optimizer, parameters: set[nn.Parameter]) -> bool:
    """Return whether an optimizer holds one of the parameters."""
    return any(p in parameters for group in optimizer.param_groups for p in group["params"])


def _start(optimizer: Optimizer, parameter: nn.Parameter, slot: str) -> float:
    """Return what an optimizer fills a slot with at first: zero, but for two of torch's."""
    if (isinstance(optimizer, Rprop) and slot == "step_size") or (isinstance(optimizer, Adagrad) and slot == "sum"):
        group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
        return float(group["lr"] if slot == "step_size" else group["initial_accumulator_value"])
    return 0.0
