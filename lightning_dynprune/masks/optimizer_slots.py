"""Optimizer slots: the tensors, such as momentum, that an optimizer keeps for a parameter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor, nn
from torch.optim import LBFGS, Adafactor, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop, Rprop

from lightning_dynprune.distributed import local_part
from lightning_dynprune.masks.compat import reset_lbfgs
from lightning_dynprune.masks.layouts import integer_pieces, select_along


def slots(optimizers: Sequence[Optimizer], parameter: nn.Parameter) -> Iterator[tuple[Tensor, float]]:
    """Yield every slot that has one entry per entry of a parameter, with the slot's initial value.

    These are momentum, second moments and the like. Step counts and factored moments have another shape and are left
    out. Of a sharded parameter, the local part of each slot is yielded.

    Args:
        optimizers: torch optimizers.
        parameter: the parameter.
    """
    for optimizer in optimizers:
        if parameter not in optimizer.state:
            continue
        for name, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point():
                yield local_part(value), _start(optimizer, parameter, name)


# Slots that hold a running average, or the sum, of squared gradients, by the optimizers that keep them.
_SQUARED = {"exp_avg_sq": (Adam, AdamW, NAdam, RAdam), "square_avg": (RMSprop,), "sum": (Adagrad,)}
KEEPS_SQUARED_GRADIENTS = tuple(kind for kinds in _SQUARED.values() for kind in kinds)


def squared_gradients(optimizers: Sequence[Optimizer], parameter: nn.Parameter) -> Tensor | None:
    """Return the running average of squared gradients that an optimizer keeps for a parameter; None if none does.

    Args:
        optimizers: torch optimizers.
        parameter: the parameter; of a sharded one the local part is returned.
    """
    for optimizer in optimizers:
        state = optimizer.state.get(parameter, {})
        for name, kinds in _SQUARED.items():
            if isinstance(optimizer, kinds) and isinstance(slot := state.get(name), Tensor):
                return local_part(slot)
    return None


@torch.no_grad()
def reset_slots(optimizers: Sequence[Optimizer], parameter: nn.Parameter, keep: Tensor) -> None:
    """Reset a parameter's slots to their initial values, except where ``keep`` is True.

    LBFGS has one history of steps for all its parameters, which a new mask invalidates: it is cleared as a whole.

    Args:
        optimizers: torch optimizers.
        parameter: the parameter whose slots are reset.
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
    """Return a gradient as an optimizer will apply it in the step that is about to run.

    Under ``GradScaler`` a fused optimizer receives the gradients of the scaled loss and unscales them within its step.
    If they overflowed, the step changes nothing, and zeros are returned. No host sync.

    Args:
        optimizer: a torch optimizer.
        grad: the gradient of one of its parameters.
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
    """The entries of a parameter that were kept when it was made smaller.

    Attributes:
        shape: shape of the parameter before.
        positions: dimension -> positions kept along it, int64; along other dimensions all were kept.
    """

    shape: Size
    positions: Mapping[int, Tensor]


@torch.no_grad()
def narrow_slots(optimizers: Sequence[Optimizer], moves: Mapping[nn.Parameter, KeptEntries]) -> None:
    """Narrow the slots of parameters that were made smaller, entry for entry.

    A slot of the parameter's old shape loses the entries that the parameter lost, a factored slot (Adafactor) its rows
    or columns; step counts and the like stay. If the removed entries and their gradients were zero, optimizers that
    work entry by entry continue as if the entries were still there. Adafactor and Muon do not: they scale their steps
    by the tensor's size, which has changed. Adafactor's factors are means over the dimension that became shorter, and
    are rescaled so that their product stays the same. LBFGS has one history for all its parameters; it is cleared, with
    a warning.

    Args:
        optimizers: torch optimizers; those that hold none of the parameters are left unchanged.
        moves: parameter, already smaller -> its kept entries.

    Raises:
        ValueError: a slot has neither the parameter's shape nor that of its rows or columns; nothing has been changed.

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
    """The slots of parameters that were narrowed, made but not yet assigned; see :func:`narrow_slots`.

    Args:
        optimizers: torch optimizers.
        moves: parameter, already narrowed, -> the entries that were kept.

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
            is_lost = bool(optimizer.state)
            reset_lbfgs(optimizer)
            if is_lost:
                warnings.warn("LBFGS: its history does not fit the smaller parameters and is cleared", stacklevel=3)


def _narrowed(optimizer: Optimizer, name: str, slot: Tensor, entries: KeptEntries) -> Tensor:
    fits = slot.dim() == len(entries.shape) and all(
        size in (1, whole) for size, whole in zip(slot.shape, entries.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{type(optimizer).__name__} keeps {name!r} of shape {tuple(slot.shape)} for a parameter of shape "
            f"{tuple(entries.shape)} and cannot be narrowed with it; slim after training, without the optimizer"
        )
    for dim, positions in entries.positions.items():
        whole = entries.shape[dim]
        if slot.shape[dim] == whole:
            slot = select_along(slot, dim, positions)
        elif isinstance(optimizer, Adafactor):
            slot = slot * (whole / len(positions))
    return slot


def optimizer_holds(optimizer: Optimizer, parameters: set[nn.Parameter]) -> bool:
    """Return whether an optimizer holds one of the parameters."""
    return any(p in parameters for group in optimizer.param_groups for p in group["params"])


def _start(optimizer: Optimizer, parameter: nn.Parameter, slot: str) -> float:
    """Return the initial value of a slot: zero, except for Rprop's step sizes and Adagrad's sums."""
    if (isinstance(optimizer, Rprop) and slot == "step_size") or (isinstance(optimizer, Adagrad) and slot == "sum"):
        group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
        return float(group["lr"] if slot == "step_size" else group["initial_accumulator_value"])
    return 0.0
