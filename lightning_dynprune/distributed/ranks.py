"""Communication between the processes that train one model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

_MESSAGE_SIZE = 1024  # bytes of an error message that are sent to the other processes


class RankError(RuntimeError):
    """Another process failed, or the processes hold different masks."""


def quote(error: BaseException) -> str:
    """Return an error as other processes quote it: its type and its message.

    Example:
        >>> quote(ValueError("sparsity=2"))
        'ValueError: sparsity=2'
    """
    return f"{type(error).__name__}: {error}"


class Ranks:
    """The processes of a group, with the collective operations on their tensors.

    In a group of one process every operation returns its input, at no cost. Every method must be called by all
    processes of the group, in the same order.

    Args:
        group: a ``torch.distributed`` process group; None: the default group if one is initialized, else a group of
            one process.
        device: device of the tensors that are sent, as the group's backend requires.

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
        """Return the sum of a tensor over all processes, on its device; with one process, the tensor itself."""
        if self.size == 1:
            return tensor
        summed = tensor.to(self.device, copy=True)
        dist.all_reduce(summed, group=self.group)
        return summed.to(tensor.device)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, in rank order; they must have the same shape and dtype."""
        if self.size == 1:
            return [tensor]
        sent = tensor.to(self.device).contiguous()
        received = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(received, sent, group=self.group)
        return [other.to(tensor.device) for other in received]

    def concat_each(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return, for each of several flat tensors, those of all processes concatenated in rank order.

        Lengths may differ between processes. All tensors are sent in two messages.
        """
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

    def gather_texts(self, text: str) -> list[str]:
        """Return the texts of all processes, in rank order."""
        if self.size == 1:
            return [text]
        sent = torch.tensor(list(text.encode()), dtype=torch.uint8)
        return [bytes(other.tolist()).decode() for other in self.gather_each(sent)]

    def gather_each(self, tensor: Tensor) -> list[Tensor]:
        """Return the flat tensors of all processes, in rank order; their lengths may differ."""
        lengths = [int(length) for length in self.gather(torch.tensor([tensor.numel()]))]
        padded = tensor.new_zeros(max(lengths))
        padded[: tensor.numel()] = tensor
        return [other[:length] for other, length in zip(self.gather(padded), lengths, strict=True)]

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """Raise in all processes if the block raises in one of them, so that no process waits for a failed one.

        Raises:
            RankError: another process failed; the message quotes its error.
        """
        if self.size == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        # A sum takes fewer messages than a gather, and usually no process has failed.
        if self.sum(torch.tensor([error is not None], dtype=torch.int64)):
            self._raise_first(error)

    def sum_together(self, compute: Callable[[], Tensor], shape: Sequence[int]) -> Tensor:
        """Return the sum over all processes of what each computes; raise in all if one fails, as the block above does.

        The error flag is sent in the same message as the summand.

        Args:
            compute: returns the summand of this process, int64.
            shape: of the summand, the same on all processes.

        Raises:
            RankError: another process failed; the message quotes its error.
        """
        if self.size == 1:
            return compute()
        error: Exception | None = None
        sent = torch.zeros(math.prod(shape) + 1, dtype=torch.int64, device=self.device)
        try:
            sent[:-1] = compute().reshape(-1)
        except Exception as raised:
            error = raised
            sent[-1] = 1
        summed = self.sum(sent)
        if summed[-1]:
            self._raise_first(error)
        return summed[:-1].view(*shape)

    def _raise_first(self, error: Exception | None) -> NoReturn:
        """Raise this process's own error, or that of the first process that has one; all processes call this."""
        text = b"" if error is None else quote(error).encode()[:_MESSAGE_SIZE]
        message = torch.zeros(_MESSAGE_SIZE, dtype=torch.uint8)
        message[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        messages = self.gather(message)
        if error is not None:
            raise error
        first = next(rank for rank, other in enumerate(messages) if other.any())
        quoted = bytes(messages[first].tolist()).rstrip(b"\0").decode(errors="replace")
        raise RankError(f"rank {first} failed: {quoted}")

    def check_equal(
        self,
        names: Sequence[str],
        checksums: Sequence[int],
        parts: Sequence[int] | None = None,
        error: Exception | None = None,
    ) -> None:
        """Raise if processes that hold the same tensor, or the same part of it, have different checksums of it.

        Args:
            names: names of the tensors, the same on all processes.
            checksums: one per name, signed 64-bit.
            parts: number of the part of each tensor that this process holds, see :attr:`Shard.box_id`; only equal parts
                are compared. None: all processes hold whole tensors.
            error: of this process, which is raised in all of them instead; None: it has none.

        Raises:
            RankError: names the first tensor that differs, and the ranks that hold different values; or another process
                has an error, which is quoted.
        """
        if self.size == 1:
            if error is not None:
                raise error
            return
        own = torch.tensor([list(checksums), [0] * len(names) if parts is None else list(parts)])
        flagged = torch.cat([own, torch.tensor([[error is not None], [0]])], 1)
        everyone = torch.stack(self.gather(flagged))
        if everyone[:, 0, -1].any():
            self._raise_first(error)
        everyone = everyone[:, :, :-1]
        # A Python loop over ranks x names is too slow; sorting brings equal parts next to each other.
        sorted_parts, order = everyone[:, 1].sort(dim=0, stable=True)
        sums = everyone[:, 0].gather(0, order)
        differs = ((sorted_parts[1:] == sorted_parts[:-1]) & (sums[1:] != sums[:-1])).any(0)
        if not differs.any():
            return
        position = int(differs.nonzero()[0])
        first: dict[int, tuple[int, int]] = {}
        for rank, (own_sum, part) in enumerate(everyone[:, :, position].tolist()):
            first_rank, first_sum = first.setdefault(part, (rank, own_sum))
            if first_sum != own_sum:
                raise RankError(
                    f"{names[position]} differs between rank {first_rank} and rank {rank}: the processes no longer "
                    "train one model. Look for a seed, a metric or weights that depend on the rank"
                )
