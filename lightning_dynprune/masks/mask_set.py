"""The masks of a run: one bool tensor per target, with its counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lightning_dynprune.base import count_true
from lightning_dynprune.distributed import Ranks
from lightning_dynprune.masks.layouts import integer_pieces, select_along
from lightning_dynprune.masks.packing import pack_target, unpack_bits
from lightning_dynprune.targets import Target


class MaskSet:
    """The masks of a model's targets: one bool tensor per target, True = kept; all True at first.

    Of a sharded target, a process holds the mask of its own part. All counts are of whole targets.

    Args:
        targets: the targets, in order.
        ranks: the processes that train them; None: this process only.

    Attributes:
        tensors: the masks, in the order of the targets.
        kept: number of connections kept, per target.
        original_numel: number of connections before any were removed by slimming, per target.

    Example:
        >>> from torch import nn
        >>> weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        >>> masks = MaskSet([Target("w", weight)])
        >>> masks.write(0, [torch.tensor([True, False, True])])
        (1, 0)
        >>> masks.apply()
        >>> weight.tolist()
        [1.0, 0.0, 3.0]
    """

    def __init__(self, targets: Sequence[Target], ranks: Ranks | None = None) -> None:
        self.targets = list(targets)
        self.ranks = ranks or Ranks.single()
        # Strides follow the parameter's, so that a channels_last weight is masked in one straight pass.
        self.tensors = [torch.ones_like(t.values, dtype=torch.bool) for t in targets]
        self.kept = [target.numel for target in targets]
        self.original_numel = list(self.kept)
        self._views: list[tuple[int, list[tuple[Tensor, Tensor]]]] = []

    @property
    def total(self) -> int:
        """Number of connections of all targets, including those removed by slimming."""
        return sum(self.original_numel)

    @property
    def sparsity(self) -> float:
        """Share of connections pruned."""
        return (self.total - sum(self.kept)) / self.total

    @property
    def shard_ranks(self) -> Ranks | None:
        """The processes that hold the sharded targets; None if no target is sharded."""
        return self.ranks if any(target.shard is not None for target in self.targets) else None

    def count(self, flags: Iterable[Tensor]) -> list[int]:
        """Return the number of True entries of bool tensors, one per target, each shaped like its mask here."""

        def count() -> dict[int, Tensor]:
            return {position: count_true(flag.reshape(-1)).view(1) for position, flag in enumerate(flags)}

        return [number for (number,) in self._summed(count, 1).values()]

    def _summed(self, count: Callable[[], Mapping[int, Tensor]], columns: int) -> dict[int, list[int]]:
        """Return counts summed over the processes that hold the targets: one message and one host sync for all.

        Args:
            count: returns the counts of this process by the position of their target; its errors are raised in all.
            columns: number of counts of a target.
        """
        device = self.ranks.device
        if self.shard_ranks is None:
            counts = count()
            return dict(zip(counts, torch.stack([c.to(device) for c in counts.values()]).tolist(), strict=True))
        counted: list[int] = []

        def owned() -> Tensor:
            table = torch.zeros(len(self.targets), columns, dtype=torch.int64, device=device)
            for position, row in count().items():
                shard = self.targets[position].shard
                counted.append(position)
                # Every process holds the whole of a target that is not sharded.
                if self.ranks.rank == 0 if shard is None else shard.is_owner:
                    table[position] = row
            return table

        summed = self.ranks.sum_together(owned, (len(self.targets), columns)).tolist()
        return {position: summed[position] for position in counted}

    def write(
        self, position: int, pieces: Iterable[Tensor], kept: int | None = None, growing: bool = False
    ) -> tuple[int, int]:
        """Replace the mask of one target, piece by piece.

        Args:
            position: index of the target.
            pieces: flat bool tensors that cover the target in order.
            kept: the number of entries that will be True, if known; None: it is counted.
            growing: whether kept connections stay kept, and ``pieces`` are added to them.

        Returns:
            The number of connections dropped, and the number grown.
        """
        (changes,) = self.write_each([(position, pieces, kept)], growing)
        return changes

    def write_each(
        self, writings: Iterable[tuple[int, Iterable[Tensor], int | None]], growing: bool = False
    ) -> list[tuple[int, int]]:
        """Replace the masks of several targets, as :meth:`write` does; all counts are sent in one message.

        Args:
            writings: (position, pieces, kept) of one target each, consumed one after the other.
            growing: whether kept connections stay kept, and the pieces are added to them.

        Returns:
            For each target, the number of connections dropped and the number grown.
        """
        given: dict[int, int | None] = {}

        def write() -> dict[int, Tensor]:
            counts = {}
            for position, pieces, kept in writings:
                counts[position] = self._write_local(position, pieces, kept is None, growing)
                given[position] = kept
            return counts

        changes = []
        for position, (num_stayed, counted) in self._summed(write, 2).items():
            known = given[position]
            kept = counted if known is None else known
            changes.append((self.kept[position] - num_stayed, kept - num_stayed))
            self.kept[position] = kept
        return changes

    def _write_local(self, position: int, pieces: Iterable[Tensor], counting: bool, growing: bool) -> Tensor:
        """Write the local part of one mask; return how many entries stayed True and, if counted, how many are True."""
        mask = self.tensors[position]
        # A layout that is not row-major has no flat view: the pieces are written to a copy first.
        flat = mask.view(-1) if mask.is_contiguous() else mask.reshape(-1)
        stayed = torch.zeros((), dtype=torch.int64, device=mask.device)
        counted = torch.zeros((), dtype=torch.int64, device=mask.device)
        start = 0
        for keep in pieces:
            old = flat[start : start + keep.numel()]
            lived = old.view(torch.uint8).bitwise_and_(1).view(torch.bool)
            keep = keep | lived if growing else keep
            stayed += count_true(lived & keep)
            if counting:
                counted += count_true(keep)
            old.copy_(keep)
            start += keep.numel()
        if not mask.is_contiguous():
            mask.copy_(flat.view(mask.shape))
        return torch.stack([stayed, counted])

    def scratch_bits(self, position: int) -> Tensor | None:
        """Return a mask's memory as flat bytes, one per connection; an update may use bit 1 until it writes the mask.

        None if the layout is not row-major. After an update that failed, call :meth:`clear_scratch_bits`.
        """
        mask = self.tensors[position]
        return mask.view(-1).view(torch.uint8) if mask.is_contiguous() else None

    def clear_scratch_bits(self) -> None:
        """Clear the bits that updates wrote into the masks' memory."""
        for position in range(len(self.targets)):
            if (scratch_bits := self.scratch_bits(position)) is not None:
                scratch_bits.bitwise_and_(1)

    @torch.no_grad()
    def apply(self) -> None:
        """Set every pruned entry of every target to +0.0, in place; no host sync."""
        for position, target in enumerate(self.targets):
            if self.kept[position] == target.numel:
                continue
            for weight, mask in self._pieces(position):
                weight.mul_(mask)

    def _pieces(self, position: int) -> list[tuple[Tensor, Tensor]]:
        """Return the integer views to multiply; they are cached until the parameter's memory moves."""
        if len(self._views) != len(self.targets):
            self._views = [(0, [])] * len(self.targets)
        target = self.targets[position]
        address = (target.parameter if target.shard is None else target.values).data_ptr()
        if self._views[position][0] != address or not address:
            values = target.values
            if self.tensors[position].device != values.device:
                self.tensors[position] = self.tensors[position].to(values.device)
            self._views[position] = (address, list(integer_pieces(values, self.tensors[position])))
        return self._views[position][1]

    @torch.no_grad()
    def zero_pruned(self, position: int, tensor: Tensor) -> None:
        """Set the pruned entries of a tensor, shaped like the local part of the target at ``position``, to +0.0."""
        for values, mask in integer_pieces(tensor, self.tensors[position]):
            values.mul_(mask)

    def narrowed(self, position: int, kept: Mapping[int, Tensor]) -> Tensor:
        """Return the mask of a target that is slimmed.

        Args:
            position: index of the target.
            kept: dimension -> the positions that are kept, int64.
        """
        mask = self.tensors[position]
        for dim, positions in kept.items():
            mask = select_along(mask, dim, positions)
        return mask

    def narrow(self, masks: Mapping[int, Tensor]) -> None:
        """Replace the masks of slimmed targets; the removed connections still count as pruned.

        Args:
            masks: index of a target -> its mask from :meth:`narrowed`.
        """
        for position, mask in masks.items():
            self.tensors[position] = mask
        self._views = []

    def pack(self) -> dict[str, Tensor]:
        """Return the whole masks as bits, by target name: uint8, eight connections a byte, first in the lowest bit."""
        return {t.name: pack_target(t, mask) for t, mask in zip(self.targets, self.tensors, strict=True)}

    def unpack(self, packed: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the masks that :meth:`pack` packed, shaped like the local masks, which are not changed.

        Raises:
            ValueError: a mask does not fit its target.
        """
        return [
            t.local_part(unpack_bits(packed[t.name], t.numel, t.name).view(t.parameter.shape)) for t in self.targets
        ]

    def load(self, masks: Sequence[Tensor]) -> None:
        """Replace all masks by those of :meth:`unpack`."""
        flat = (mask.reshape(-1).to(own.device) for mask, own in zip(masks, self.tensors, strict=True))
        self.write_each((position, [mask], None) for position, mask in enumerate(flat))


def without_scratch_bit(mask: Tensor) -> Tensor:
    """Return a mask, or a piece of one, without the scratch bits that an update has written."""
    return (mask.view(torch.uint8) & 1).view(torch.bool)
