"""The k-th smallest of numbers that several processes hold, found by adding counts: no number leaves its process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from lightning_dynprune.ranks import Ranks

_DIGIT = 11  # bits decided in one pass: 2^11 counts of 8 bytes are added up over the processes
_LOWEST = -(2**63)
_KINDS = {torch.float32: (torch.int32, 32), torch.float64: (torch.int64, 64)}


def kth_smallest(k: int, pieces: Callable[[], Iterable[Tensor]], bits: int, ranks: Ranks) -> int:
    """Return the ``k``-th smallest of integers, digit by digit from the highest.

    Args:
        k: 1 is the smallest; at most as many as there are.
        pieces: yields this process's numbers, int64, of any number of dimensions; called once a digit.
        bits: of the numbers: below 64 they lie in [0, 2^bits), with 64 they may be negative.
        ranks: the processes; all of them call this, with the same ``k``.

    Example:
        >>> kth_smallest(2, lambda: [torch.tensor([70000, 5]), torch.tensor([6])], bits=32, ranks=Ranks())
        6
    """
    flip = _LOWEST if bits == 64 else 0
    found = 0
    for shift in range((bits - 1) // _DIGIT * _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(2**_DIGIT, dtype=torch.int64)
        for piece in pieces():
            keys = piece.reshape(-1) ^ flip
            if shift + _DIGIT < bits:
                keys = keys[(keys >> (shift + _DIGIT)) == found]
            counts += torch.bincount((keys >> shift) & (2**_DIGIT - 1), minlength=2**_DIGIT).cpu()
        reached = ranks.add(counts).cumsum(0)
        digit = int(torch.searchsorted(reached, k))
        k -= int(reached[digit - 1]) if digit else 0
        if shift + _DIGIT >= 64 and digit >= 2 ** (_DIGIT - 1):
            digit -= 2**_DIGIT  # the shift above keeps the sign
        found = found << _DIGIT | digit if digit >= 0 else digit
    return found ^ flip


def kth_best(k: int, values: Iterable[Tensor], total: int, ranks: Ranks, dtype: torch.dtype) -> float:
    """Return the ``k``-th largest of floats that several processes hold.

    Args:
        k: 1 is the largest.
        values: this process's.
        total: how many all processes hold.
        ranks: the processes.
        dtype: float32 or float64, what the values are compared in.

    Example:
        >>> kth_best(2, [torch.tensor([0.5, -2.0, 3.0])], 3, Ranks(), torch.float32)
        0.5
    """
    kind, bits = _KINDS[dtype]
    half = 2**31 if bits == 32 else 0

    def keys() -> Iterator[Tensor]:
        for piece in values:
            # Adding zero makes one of the two zeros, which compare equal.
            number = (piece.to(dtype) + 0.0).view(kind)
            yield _in_order(number).long() + half

    key = kth_smallest(total - k + 1, keys, bits, ranks) - half
    number = _in_order(torch.tensor([key], dtype=kind))
    return float(number.view(dtype))


def _in_order(bits: Tensor) -> Tensor:
    """Return integers that are ordered as the floats of these bits are; its own inverse."""
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)
