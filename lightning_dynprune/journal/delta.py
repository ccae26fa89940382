"""The flips of one update in one target, encoded in few bytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynprune.base import count_true, true_positions
from lightning_dynprune.masks import CHUNK_SIZE, pack_bits, unpack_bits

ENCODINGS = GAPS, BITS = "gaps", "bits"
# Below one flip in so many connections, gaps between flips take less space and time than bits.
_RARE = 32
_LONG = 255
_SHORT = 2**10  # bytes that Python goes through faster than torch
_PLACE = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


@dataclass(frozen=True, eq=False, slots=True)
class Delta:
    """The positions that one update flipped in one target, and optionally the values of the dropped connections.

    Rare flips are encoded as the gaps between them, one byte each, where 255 means "add 255 and read on"; others as one
    bit a connection. Both are deflated if that makes them smaller.

    Attributes:
        encoding: ``gaps`` or ``bits``.
        deflated: whether ``data`` is deflated.
        data: the encoded positions, as bytes: a tensor of some bytes would take twenty times their memory.
        numel: number of connections of the target.
        flipped: number of connections that changed.
        values: values of the dropped connections, in flat order, on the CPU; None if they are not recorded.

    Example:
        >>> before = torch.tensor([True, True, True, False])
        >>> after = torch.tensor([True, False, True, True])
        >>> delta = Delta.between(before, after)
        >>> delta.flipped, unpack_bits(delta.packed(), 4, "w").tolist()
        (2, [False, True, False, True])
    """

    encoding: str
    deflated: bool
    data: bytes
    numel: int
    flipped: int
    values: Tensor | None = None

    @classmethod
    def between(cls, before: Tensor, after: Tensor, weight: Tensor | None = None) -> Delta:
        """Return the difference between two masks.

        Args:
            before: bool mask before the update, in any layout; positions are flat and row-major.
            after: the mask after it.
            weight: values of the connections before the dropped ones were zeroed; None = values are not recorded.

        Raises:
            ValueError: the shapes differ.
        """
        if before.shape != after.shape or (weight is not None and weight.shape != before.shape):
            shapes = [None if t is None else tuple(t.shape) for t in (before, after, weight)]
            raise ValueError(f"masks before and after and the weight differ in shape: {shapes}")
        # A layout that is not row-major is copied into that order; all others are only viewed.
        before, after = before.reshape(-1), after.reshape(-1)
        flipped = sum(int(count_true(flips)) for flips in _flips(before, after))
        values = None if weight is None else _dropped_values(before, after, weight.detach().reshape(-1))
        rare = flipped * _RARE < before.numel()
        plain = _gaps(before, after) if rare else _bits(before, after)
        # Gaps have runs where whole rows flip; for bits, this is tested first.
        data = _deflate(plain, runs=rare or _has_runs(plain))
        deflated = len(data) < plain.numel()
        data = data if deflated else plain.numpy().tobytes()
        return cls(GAPS if rare else BITS, deflated, data, before.numel(), flipped, values)

    def packed(self, name: str = "delta") -> Tensor:
        """Return the flipped connections as bits: uint8 on the CPU, the first connection in the lowest bit.

        Takes no more memory than the number of connections requires, even if the bytes are damaged.

        Args:
            name: name of the target, for messages.

        Raises:
            ValueError: the bytes do not encode ``flipped`` positions within ``numel``.
        """
        plain = as_tensor(self._plain(name))
        if self.encoding == GAPS:
            return _read_gaps(plain, self.numel, self.flipped, name)
        found = int(count_true(unpack_bits(plain, self.numel, name)))
        if found != self.flipped:
            raise ValueError(f"journal of {name}: {found} flips where {self.flipped} are expected; it is damaged")
        return plain

    def validate(self, name: str = "delta") -> None:
        """Raise where :meth:`packed` raises; short bytes are checked without tensors, which is faster.

        Args:
            name: name of the target, for messages.

        Raises:
            ValueError: the bytes do not encode ``flipped`` positions within ``numel``.
        """
        plain = self._plain(name)
        if len(plain) > _SHORT:
            is_valid = False
        elif self.encoding == GAPS:
            found = len(plain) - plain.count(_LONG)
            is_valid = found == self.flipped and sum(plain) + found <= self.numel and plain[-1:] != bytes([_LONG])
        else:
            bits = int.from_bytes(plain, "little")
            is_valid = len(plain) == (self.numel + 7) // 8 and not bits >> self.numel
            is_valid &= bits.bit_count() == self.flipped
        if not is_valid:
            self.packed(name)

    def _plain(self, name: str) -> bytes:
        if not 0 <= self.flipped <= self.numel:
            raise ValueError(f"journal of {name}: {self.flipped} flips in {self.numel} connections; it is damaged")
        longest = self.flipped + self.numel // _LONG if self.encoding == GAPS else (self.numel + 7) // 8
        return _inflate(self.data, longest, name) if self.deflated else self.data


def as_tensor(data: bytes) -> Tensor:
    """Return a copy of bytes as a tensor, uint8."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)


def _flips(before: Tensor, after: Tensor) -> Iterator[Tensor]:
    for old, new in zip(torch.split(before, CHUNK_SIZE), torch.split(after, CHUNK_SIZE), strict=True):
        yield old ^ new


def _dropped_values(before: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    pieces = zip(
        torch.split(before, CHUNK_SIZE), torch.split(after, CHUNK_SIZE), torch.split(weight, CHUNK_SIZE), strict=True
    )
    return torch.cat([values.index_select(0, true_positions(old & ~new)).cpu() for old, new, values in pieces])


def _bits(before: Tensor, after: Tensor) -> Tensor:
    return torch.cat([pack_bits(flips) for flips in _flips(before, after)])


def _gaps(before: Tensor, after: Tensor) -> Tensor:
    last = torch.tensor([-1])
    written = [torch.zeros(0, dtype=torch.uint8)]
    for number, flips in enumerate(_flips(before, after)):
        positions = true_positions(flips).cpu() + number * CHUNK_SIZE
        if positions.numel():
            gaps = torch.diff(positions, prepend=last).sub_(1)
            last = positions[-1:]
            written.append(_gap_bytes(gaps))
    return torch.cat(written)


def _gap_bytes(gaps: Tensor) -> Tensor:
    if int(gaps.max()) < _LONG:
        return gaps.to(torch.uint8)
    repeats = gaps // _LONG
    ends = torch.cumsum(repeats + 1, 0) - 1
    codes = torch.full((int(ends[-1]) + 1,), _LONG, dtype=torch.uint8)
    codes[ends] = (gaps - repeats * _LONG).to(torch.uint8)
    return codes


def _read_gaps(codes: Tensor, numel: int, flipped: int, name: str) -> Tensor:
    packed = torch.zeros((numel + 7) // 8, dtype=torch.uint8)
    found = stop = 0
    for piece in torch.split(codes, CHUNK_SIZE) if codes.numel() else ():
        ends = piece != _LONG
        # Each position is the sum of the gaps so far plus the number of flips before it.
        sums = torch.cumsum(piece.to(torch.int64) + ends, 0).add_(stop)
        positions = sums[ends].sub_(1)
        found, stop = found + positions.numel(), int(sums[-1])
        if stop > numel:
            raise ValueError(f"journal of {name}: a flip lies past its {numel} connections; it is damaged")
        packed.index_add_(0, positions >> 3, _PLACE.index_select(0, positions & 7))
    if found != flipped or (codes.numel() and int(codes[-1]) == _LONG):
        raise ValueError(f"journal of {name}: {found} flips where {flipped} are expected; it is damaged")
    return packed


def _has_runs(packed: Tensor) -> bool:
    """Return whether rows or blocks flipped; scattered flips deflate faster and smaller without a search for runs."""
    words = packed[: packed.numel() // 8 * 8].view(torch.int64)
    return int(torch.count_nonzero((words == 0) | (words == -1))) * 4 > words.numel()


def _deflate(plain: Tensor, runs: bool) -> bytes:
    deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE if runs else zlib.Z_HUFFMAN_ONLY)
    return deflate.compress(plain.numpy().data) + deflate.flush()


def _inflate(data: bytes, most: int, name: str) -> bytes:
    """Return the inflated bytes; raise a ValueError before more than ``most`` of them take memory."""
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(f"journal of {name}: its bytes cannot be inflated ({error}); it is damaged") from None
    if len(plain) > most or not inflate.eof or inflate.unused_data:
        raise ValueError(f"journal of {name}: its bytes do not hold flips of this target; it is damaged")
    return plain
