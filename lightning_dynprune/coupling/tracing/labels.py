"""The channel that each entry of a tensor belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynprune.coupling.tracing.units import ChannelUnits


@dataclass(frozen=True, eq=False)
class Labels:
    """Numbers of :class:`~lightning_dynprune.coupling.tracing.units.ChannelUnits` for the entries of a tensor.

    Attributes:
        numbers: int64, on the CPU, with as many dimensions as the tensor; of size 1 along dimensions in which they do
            not differ.
        sized: for each dimension whether the tensor has entries of its own along it; False where it is broadcast.
    """

    numbers: Tensor
    sized: tuple[bool, ...]

    def varies(self) -> list[int]:
        """Return the dimensions along which the numbers differ."""
        return [dim for dim, size in enumerate(self.numbers.shape) if size > 1]

    def over(self, shape: Sequence[int]) -> Tensor:
        """Return a number for every entry of a tensor of this shape, expanded without a copy."""
        return self.numbers.expand(tuple(shape))


def labels_of(numbers: Tensor, shape: Sequence[int]) -> Labels:
    """Return the labels of a tensor of a shape, given numbers that broadcast to it."""
    return Labels(_compact(numbers), tuple(size > 1 for size in shape))


def constant(number: int, shape: Sequence[int]) -> Labels:
    """Return the labels of a tensor whose entries all have one number."""
    return Labels(torch.full([1] * len(shape), number), tuple(size > 1 for size in shape))


def combined(units: ChannelUnits, given: Sequence[Labels], dims: int, origin: str) -> Labels:
    """Return the labels of an entrywise function of several tensors, such as a sum.

    Channels that meet in an entry can only be removed together. Channels that meet something else than channels, or
    other channels along another dimension, cannot be removed.

    Args:
        units: of the model.
        given: labels of the tensors; constants are left out.
        dims: number of dimensions of the result.
        origin: describes the operation, for messages.
    """
    result = _padded(given[0], dims)
    for other in given[1:]:
        result = _pair(units, result, _padded(other, dims), origin)
    return result


def united(units: ChannelUnits, numbers: Tensor, dim: int, origin: str) -> Tensor:
    """Return one number for each position along a dimension, after all channels at a position are merged.

    Args:
        units: of the model.
        numbers: any shape.
        dim: the dimension whose positions remain.
        origin: describes the operation, for messages.
    """
    rows = numbers.movedim(dim, 0).flatten(1)
    first = rows[:, :1]
    if rows.shape[1] > 1:
        meet(units, first.expand_as(rows), rows, origin)
    return first.flatten()


def meet(units: ChannelUnits, first: Tensor, second: Tensor, origin: str) -> None:
    """Merge the channels of two tensors of numbers, entry by entry; refuse those that meet a mixture."""
    if torch.equal(first, second):
        return
    first, second = first.flatten(), second.flatten()
    both = (first >= 0) & (second >= 0)
    units.union(first[both], second[both])
    if both.all():
        return
    apart = ~both & (first != second)
    for numbers, others in ((first[apart], second[apart]), (second[apart], first[apart])):
        for number in torch.unique(others[others < 0]).tolist():
            channels = numbers[(others == number) & (numbers >= 0)]
            units.retain(channels, f"they meet {units.origin(number)} in {origin}")
        units.retain(numbers[numbers < 0], "")


def _pair(units: ChannelUnits, a: Labels, b: Labels, origin: str) -> Labels:
    """Return the labels of an entrywise function of two tensors with as many dimensions."""
    sized = tuple(x or y for x, y in zip(a.sized, b.sized, strict=True))
    if (a.numbers < 0).all() and (b.numbers < 0).all():
        if a.numbers.numel() == b.numbers.numel() == 1 and int(a.numbers) == int(b.numbers):
            return Labels(a.numbers, sized)
        mixed = units.mixture([a.numbers, b.numbers], origin)
        return Labels(torch.full([1] * len(sized), mixed), sized)
    lower = [_broadcast_over(x, y) for x, y in ((a, b), (b, a))]
    if lower[0] == lower[1] == "":
        first, second = torch.broadcast_tensors(a.numbers, b.numbers)  # type: ignore[no-untyped-call]
        meet(units, first, second, origin)
        return Labels(_compact(torch.where(first < 0, second, first)), sized)
    for labels, how in zip((a, b), lower, strict=True):
        if how:
            units.retain(labels.numbers, f"{origin} applies each of them to several channels")
    if "" in lower and "crossed" not in lower:
        return Labels((a if lower[1] else b).numbers, sized)
    mixed = units.mixture([a.numbers, b.numbers], origin)
    return Labels(torch.full([1] * len(sized), mixed), sized)


def _broadcast_over(a: Labels, b: Labels) -> str:
    """Return how ``a`` meets the channels of ``b`` along dimensions in which only the numbers of ``b`` differ.

    ``"broadcast"``: ``a`` is broadcast along one of them; ``"crossed"``: it has entries of its own there, and its
    numbers differ along other dimensions; empty otherwise.
    """
    only = [dim for dim in b.varies() if a.numbers.shape[dim] == 1]
    if any(not a.sized[dim] for dim in only):
        return "broadcast"
    return "crossed" if only and a.varies() else ""


def _padded(labels: Labels, dims: int) -> Labels:
    missing = dims - labels.numbers.dim()
    if not missing:
        return labels
    return Labels(labels.numbers[(None,) * missing], (False,) * missing + labels.sized)


def _compact(numbers: Tensor) -> Tensor:
    """Return numbers with size 1 along every dimension in which they do not differ."""
    for dim in range(numbers.dim()):
        if numbers.shape[dim] > 1 and numbers.stride(dim) == 0:
            numbers = numbers.narrow(dim, 0, 1)
    for dim in range(numbers.dim()):
        first = numbers.narrow(dim, 0, 1)
        if numbers.shape[dim] > 1 and bool((numbers == first).all()):
            numbers = first
    return numbers.contiguous()
