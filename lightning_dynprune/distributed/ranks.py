"""The processes that train one model together: what they add up, and what they must agree on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_MESSAGE = 1024  # bytes of an error that the other processes are told
_PIECE = 2**19  # connections hashed at once; a multiple of 8
# The mixing constants of the "splitmix64" generator (Steele, Lea, Flood, 2014), as signed 64-bit numbers.
_ODD_1 = 0x9E3779B97F4A7C15 - 2**64
_ODD_2 = 0xBF58476D1CE4E5B9 - 2**64
_ODD_3 = 0x94D049BB133111EB - 2**64


class RankError(RuntimeError):
    """Another process failed, or the processes hold different masks."""


class Ranks:
    """Talks to the other processes of a group; in a group of one it does nothing and costs nothing.

    Every method is called by all processes of the group, in the same order.

    Args:
        group: a ``torch.distributed`` process group; None: the default one where there is any, else a group of one.
        device: where the tensors of a message live, as the group's backend asks for.

    Example:
        >>> ranks = Ranks()
        >>> ranks.size, ranks.rank, ranks.sum(torch.tensor([3])).tolist()
        (1, 0, [3])
    """

    def __init__(self, group: dist.ProcessGroup | None = None, device: torch.device | str = "cpu") -> None:
        self.group, self.device = group, torch.device(device)
        has_others = dist.is_available() and (group is not None or dist.is_initialized())
        self.size: int = dist.get_world_size(group) if has_others else 1
        self.rank: int = dist.get_rank(group) if has_others else 0

    @classmethod
    def single(cls) -> Ranks:
        """Return a group of this process only."""
        ranks = cls.__new__(cls)
        ranks.group, ranks.device, ranks.size, ranks.rank = None, torch.device("cpu"), 1, 0
        return ranks

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, on its own device; the tensor itself where there is one."""
        if self.size == 1:
            return tensor
        summed = tensor.to(self.device, copy=True)
        dist.all_reduce(summed, group=self.group)
        return summed.to(tensor.device)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensor of every process, in the order of their ranks; all of one shape and type."""
        if self.size == 1:
            return [tensor]
        sent = tensor.to(self.device).contiguous()
        received = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(received, sent, group=self.group)
        return [other.to(tensor.device) for other in received]

    def concat_each(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return, for each of several flat tensors, those of all processes concatenated in rank order; two messages."""
        if self.size == 1:
            return list(tensors)
        lengths = torch.stack(self.gather(torch.tensor([tensor.numel() for tensor in tensors])))
        sent = torch.cat([*tensors])
        padded = sent.new_zeros(int(lengths.sum(1).max()))
        padded[: sent.numel()] = sent
        received = [
            torch.split(other, [*own, padded.numel() - sum(own)])
            for own, other in zip(lengths.tolist(), self.gather(padded), strict=True)
        ]
        return [torch.cat(parts).to(tensor.dtype) for tensor, *parts in zip(tensors, *received, strict=False)]

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """Let an error of one process end the block in all of them, so that none waits for it.

        Raises:
            RankError: another process failed; what it said is quoted.
        """
        if self.size == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        # A sum takes fewer hops than a gather, and mostly there is nothing to say.
        if not self.sum(torch.tensor([error is not None], dtype=torch.int64)):
            return
        said = "" if error is None else f"{type(error).__name__}: {error}"
        told = torch.zeros(_MESSAGE, dtype=torch.uint8)
        text = said.encode()[:_MESSAGE]
        told[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        messages = self.gather(told)
        if error is not None:
            raise error
        first = next(rank for rank, message in enumerate(messages) if message.any())
        quoted = bytes(messages[first].tolist()).rstrip(b"\0").decode(errors="replace")
        raise RankError(f"rank {first} failed: {quoted}")

    def check_equal(self, names: Sequence[str], checksums: Sequence[int], places: Sequence[int] | None = None) -> None:
        """Raise where processes that hold the same thing have different checksums of it.

        Args:
            names: what is compared, the same on all processes.
            checksums: one a name, 64 bits, signed.
            places: what part of it this process holds; only equal parts are compared. None: all hold the whole.

        Raises:
            RankError: naming the first difference, and the rank that holds something else than the first one does.
        """
        if self.size == 1:
            return
        own = torch.tensor([list(checksums), [0] * len(names) if places is None else list(places)])
        everyone = torch.stack(self.gather(own))
        # Ranks x names are too many to look at one by one where all is well: equal parts are sorted side by side.
        parts, order = everyone[:, 1].sort(dim=0, stable=True)
        sums = everyone[:, 0].gather(0, order)
        differs = ((parts[1:] == parts[:-1]) & (sums[1:] != sums[:-1])).any(0)
        if not differs.any():
            return
        position = int(differs.nonzero()[0])
        first: dict[int, tuple[int, int]] = {}
        for rank, (own_sum, part) in enumerate(everyone[:, :, position].tolist()):
            there, known = first.setdefault(part, (rank, own_sum))
            if known != own_sum:
                raise RankError(
                    f"rank {rank} has another {names[position]} than rank {there}: the processes no longer train one "
                    "model. Look for a seed, a metric or weights that depend on the rank"
                )


def mask_checksum(mask: Tensor) -> int:
    """Return 64 bits that tell masks apart, as a signed number.

    Eight connections are read as one number, mixed with their place and added up, so that order matters.

    Args:
        mask: bool, of any shape; read in row-major order.

    Example:
        >>> a, b = torch.tensor([True, False, True]), torch.tensor([False, True, True])
        >>> mask_checksum(a) == mask_checksum(a.clone()), mask_checksum(a) == mask_checksum(b)
        (True, False)
    """
    flat = mask.reshape(-1).view(torch.uint8)
    total = torch.tensor(flat.numel(), device=mask.device)
    for number, piece in enumerate(torch.split(flat, _PIECE)):
        if piece.numel() % 8 or piece.storage_offset() % 8:
            piece = torch.nn.functional.pad(piece, (0, -piece.numel() % 8))
        words = piece.view(torch.int64)
        start = number * _PIECE // 8
        places = torch.arange(start, start + words.numel(), device=mask.device)
        # Odd multipliers lose no bit; the shift brings the high bits, where products mix best, down again.
        mixed = (words + places * _ODD_1) * _ODD_2
        mixed = (mixed ^ (mixed >> 29)) * _ODD_3
        total = total + (mixed ^ (mixed >> 32)).sum()
    return int(total)
