"""The masks of a run: apply, count, pack to bits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_dynprune.base import count_true, integer_view
from lightning_dynprune.distributed import Ranks
from lightning_dynprune.targets import Target

# A mixed-type product makes a converted copy of its smaller operand: pieces of this many entries keep that copy in
# cache and off the peak of memory. On an accelerator the product is one kernel, whatever its size.
CHUNK_SIZE = 2**19
# Eight bools read as one int64, times this: the i-th lowest of them arrives at the i-th bit of the highest byte.
_GATHER = 0x0102040810204080


class MaskSet:
    """One bool tensor a target, True = kept; all True at first.

    Where several processes hold parts of a target, the mask here is that of the part here, and all counts are of the
    whole.

    Args:
        targets: the targets, in order.
        ranks: the processes that train them; by default this one alone.

    Attributes:
        kept: connections of each target that live.
        original_numel: connections of each target before any were slimmed away.

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
        self._plan: list[tuple[int, list[tuple[Tensor, Tensor]]]] = []

    @property
    def total(self) -> int:
        """Connections of all targets, those that were slimmed away among them."""
        return sum(self.original_numel)

    @property
    def sparsity(self) -> float:
        """Share of connections pruned."""
        return (self.total - sum(self.kept)) / self.total

    @property
    def shard_ranks(self) -> Ranks | None:
        """The processes that hold the targets in parts; None where every process holds them whole."""
        return self.ranks if any(target.shard is not None for target in self.targets) else None

    def count(self, flags: Iterable[Tensor]) -> list[int]:
        """Return how many entries are True in bool tensors, one a target, each shaped like its mask here."""
        counts = [count_true(flag.reshape(-1)).view(1) for flag in flags]
        return [count for (count,) in self._added(range(len(self.targets)), counts)]

    def _added(self, positions: Iterable[int], counts: Sequence[Tensor]) -> list[list[int]]:
        """Return counts of what is here over the whole targets: one message and one host sync for all of them."""
        here = torch.stack([count.to(self.ranks.device) for count in counts])
        shards = [self.targets[position].shard for position in positions]
        if all(shard is None for shard in shards):
            return here.tolist()
        owned = torch.tensor([shard is not None and shard.is_owner for shard in shards], device=here.device)
        summed = self.ranks.sum(here * owned.unsqueeze(1)).tolist()
        return [own if shard is None else row for own, row, shard in zip(here.tolist(), summed, shards, strict=True)]

    def write(
        self, position: int, pieces: Iterable[Tensor], kept: int | None = None, growing: bool = False
    ) -> tuple[int, int]:
        """Replace the mask of one target, piece by piece.

        Args:
            position: of the target.
            pieces: flat bool tensors that together cover the target in order.
            kept: how many entries will be True, where that is known; counted where it is not.
            growing: what lives stays, and ``pieces`` are added to it.

        Returns:
            How many connections were dropped and how many grown.
        """
        (changes,) = self.write_each([(position, pieces, kept)], growing)
        return changes

    def write_each(
        self, writings: Iterable[tuple[int, Iterable[Tensor], int | None]], growing: bool = False
    ) -> list[tuple[int, int]]:
        """Replace the masks of several targets, as :meth:`write` does; the counts of all go in one message.

        Args:
            writings: position, pieces and how many will be True, of one target each; the next is asked for when the
                last is written.
            growing: what lives stays, and the pieces are added to it.

        Returns:
            How many connections of each were dropped and how many grown.
        """
        given: dict[int, int | None] = {}
        counts = []
        for position, pieces, kept in writings:
            counts.append(self._write_here(position, pieces, kept is None, growing))
            given[position] = kept
        changes = []
        for position, (stays, counted) in zip(given, self._added(given, counts), strict=True):
            known = given[position]
            kept = counted if known is None else known
            changes.append((self.kept[position] - stays, kept - stays))
            self.kept[position] = kept
        return changes

    def _write_here(self, position: int, pieces: Iterable[Tensor], counting: bool, growing: bool) -> Tensor:
        """Write what is here of one mask; return how many entries stayed True, and how many are where that is asked."""
        mask = self.tensors[position]
        # A layout that is not row-major has no flat view to write into, so its pieces are put together first.
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
        """Return the memory of a mask, a flat byte a connection, whose bit 1 an update may use until it writes.

        None where the layout is not row-major. :meth:`clear_scratch_bits` ends an update that failed.
        """
        mask = self.tensors[position]
        return mask.view(-1).view(torch.uint8) if mask.is_contiguous() else None

    def clear_scratch_bits(self) -> None:
        """Clear what updates noted in the masks' memory."""
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
        """Return the integer views to multiply, made anew only where the parameter's memory has moved."""
        if len(self._plan) != len(self.targets):
            self._plan = [(0, [])] * len(self.targets)
        target = self.targets[position]
        address = (target.parameter if target.shard is None else target.values).data_ptr()
        if self._plan[position][0] != address or not address:
            values = target.values
            if self.tensors[position].device != values.device:
                self.tensors[position] = self.tensors[position].to(values.device)
            self._plan[position] = (address, list(integer_pieces(values, self.tensors[position])))
        return self._plan[position][1]

    @torch.no_grad()
    def zero_pruned(self, position: int, tensor: Tensor) -> None:
        """Set the pruned entries of ``tensor``, shaped like the target at ``position`` here, to +0.0."""
        for values, mask in integer_pieces(tensor, self.tensors[position]):
            values.mul_(mask)

    def narrow(self, position: int, stayed: Mapping[int, Tensor]) -> None:
        """Follow a target that was slimmed: what is gone was pruned, and still counts as that.

        Args:
            position: of the target.
            stayed: dimension -> the positions that stayed, int64.
        """
        for dim, positions in stayed.items():
            self.tensors[position] = select_along(self.tensors[position], dim, positions)
        self._plan = []

    def pack(self) -> dict[str, Tensor]:
        """Return the whole masks as bits: name -> uint8, eight connections a byte, the first in the lowest bit."""
        return {t.name: _packed(t, mask) for t, mask in zip(self.targets, self.tensors, strict=True)}

    def unpack(self, packed: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the masks of :meth:`pack`, shaped like the masks here; none is taken over yet.

        Raises:
            ValueError: a mask does not fit its target.
        """
        return [
            t.local_part(unpack_bits(packed[t.name], t.numel, t.name).view(t.parameter.shape)) for t in self.targets
        ]

    def load(self, masks: Sequence[Tensor]) -> None:
        """Take over masks from :meth:`unpack`."""
        flat = (mask.reshape(-1).to(own.device) for mask, own in zip(masks, self.tensors, strict=True))
        self.write_each((position, [mask], None) for position, mask in enumerate(flat))


def without_scratch_bit(mask: Tensor) -> Tensor:
    """Return a mask, or a piece of one, free of what an update has noted in its memory."""
    return (mask.view(torch.uint8) & 1).view(torch.bool)


def integer_pieces(tensor: Tensor, mask: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield views of a tensor's bits beside views of its mask as 0 / 1, piece by piece.

    The product of a float's bits and 0 or 1 is the float itself or +0.0: no -0.0, and no NaN or inf left behind, which
    a product of floats would leave.
    """
    bits = integer_view(tensor)
    ones = mask.view(torch.uint8)
    if tensor.device.type != "cpu" or not (bits.is_contiguous() and ones.is_contiguous()):
        order = sorted(range(bits.dim()), key=lambda axis: bits.stride()[axis], reverse=True)
        yield bits.permute(order), ones.permute(order)
        return
    yield from zip(torch.split(bits.view(-1), CHUNK_SIZE), torch.split(ones.view(-1), CHUNK_SIZE), strict=True)


def select_along(tensor: Tensor, dim: int, positions: Tensor) -> Tensor:
    """Return the entries at ``positions`` (int64) along ``dim``, in the memory format of ``tensor``."""
    chosen = tensor.index_select(dim, positions.to(tensor.device))
    for layout, dims in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if tensor.dim() == dims and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout):
            return chosen.contiguous(memory_format=layout)
    return chosen.contiguous()


def pack_bits(mask: Tensor) -> Tensor:
    """Return a bool tensor as bytes, eight entries each, the first in the lowest bit; on the CPU."""
    return _bits(mask).cpu()


def _packed(target: Target, mask: Tensor) -> Tensor:
    """Return the whole mask of a target, of which a part is here, as bits."""
    shard = target.shard
    if shard is None or not shard.is_row_sharded or math.prod(shard.shape[1:]) % 8:
        return pack_bits(target.full_tensor(mask))
    # Rows end where bytes do, so that bits can be sent: an eighth of the message.
    width = math.prod(shard.shape[1:]) // 8
    rows = replace(shard, shape=(shard.shape[0], width))
    return rows.full_tensor(_bits(mask).view(-1, width)).reshape(-1).cpu()


def _bits(mask: Tensor) -> Tensor:
    packed = []
    for piece in torch.split(mask.reshape(-1), CHUNK_SIZE):
        if piece.numel() % 8 or piece.storage_offset() % 8:
            piece = torch.nn.functional.pad(piece.view(torch.uint8), (0, -piece.numel() % 8))
        packed.append((piece.view(torch.int64) * _GATHER >> 56).to(torch.uint8))
    return torch.cat(packed)


def unpack_bits(packed: Tensor, numel: int, name: str) -> Tensor:
    """Return the flat bool tensor of ``numel`` entries that :func:`pack_bits` packed.

    Raises:
        ValueError: ``packed`` has another type or length than ``numel`` entries take, or bits past the end.
    """
    if packed.dtype != torch.uint8 or packed.shape != ((numel + 7) // 8,):
        raise ValueError(
            f"mask of {name}: {packed.dtype} {tuple(packed.shape)} does not hold {numel} connections; "
            f"expected uint8 ({(numel + 7) // 8},)"
        )
    place = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=packed.device)
    bits = torch.cat([(piece.unsqueeze(1) & place).ne(0).view(-1) for piece in torch.split(packed, CHUNK_SIZE)])
    if bits[numel:].any():
        raise ValueError(f"mask of {name}: bits are set past its {numel} connections; the file is damaged")
    return bits[:numel]
