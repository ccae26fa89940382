"""The k-th smallest of numbers spread over processes, by radix selection: only counts are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from lightning_dynprune.distributed import Ranks

_DIGIT = 11  # bits decided in one pass, which sums 2^11 counts of 8 bytes over the processes
_LOWEST = -(2**63)
_KINDS = {torch.float32: (torch.int32, 32), torch.float64: (torch.int64, 64)}


def kth_smallest(k: int, pieces: Callable[[], Iterable[Tensor]], bits: int, ranks: Ranks) -> int:
    """Return the ``k``-th smallest of integers that several processes hold, digit by digit from the highest.

    Args:
        k: 1 is the smallest; at most the number of integers.
        pieces: yields this process's integers, int64, of any shape; called once per digit.
        bits: size of the integers: below 64 they lie in [0, 2^bits), with 64 they may be negative.
        ranks: the processes, all of which call this with the same ``k``.

    Example:
        >>> kth_smallest(2, lambda: [torch.tensor([70000, 5]), torch.tensor([6])], bits=32, ranks=Ranks())
        6
    """
    return kth_smallest_each([k], [pieces], bits, ranks)[0]


def kth_smallest_each(
    ks: Sequence[int], pieces: Sequence[Callable[[], Iterable[Tensor]]], bits: int, ranks: Ranks
) -> list[int]:
    """Return :func:`kth_smallest` of several sets of integers; one message per digit for all of them."""
    flip = _LOWEST if bits == 64 else 0
    left, found = list(ks), [0] * len(ks)
    for shift in range((bits - 1) // _DIGIT * _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(len(ks), 2**_DIGIT, dtype=torch.int64)
        for lot, numbers in enumerate(pieces):
            for piece in numbers():
                keys = piece.reshape(-1) ^ flip
                if shift + _DIGIT < bits:
                    keys = keys[(keys >> (shift + _DIGIT)) == found[lot]]
                counts[lot] += torch.bincount((keys >> shift) & (2**_DIGIT - 1), minlength=2**_DIGIT).cpu()
        for lot, reached in enumerate(ranks.sum(counts).cumsum(1)):
            digit = int(torch.searchsorted(reached, left[lot]))
            left[lot] -= int(reached[digit - 1]) if digit else 0
            if shift + _DIGIT >= 64 and digit >= 2 ** (_DIGIT - 1):
                digit -= 2**_DIGIT  # the shift above keeps the sign
            found[lot] = found[lot] << _DIGIT | digit if digit >= 0 else digit
    return [number ^ flip for number in found]


def kth_largest(k: int, values: Iterable[Tensor], total: int, ranks: Ranks, dtype: torch.dtype) -> float:
    """Return the ``k``-th largest of floats that several processes hold.

    Args:
        k: 1 is the largest.
        values: the floats of this process.
        total: number of floats of all processes.
        ranks: the processes.
        dtype: float32 or float64, in which the values are compared.

    Example:
        >>> kth_largest(2, [torch.tensor([0.5, -2.0, 3.0])], 3, Ranks(), torch.float32)
        0.5
    """
    return kth_largest_each([k], [values], [total], ranks, dtype)[0]


def kth_largest_each(
    ks: Sequence[int], values: Sequence[Iterable[Tensor]], totals: Sequence[int], ranks: Ranks, dtype: torch.dtype
) -> list[float]:
    """Return :func:`kth_largest` of several sets of floats; one message per digit for all of them."""
    kind, bits = _KINDS[dtype]
    half = 2**31 if bits == 32 else 0

    def keys_of(lot: Iterable[Tensor]) -> Callable[[], Iterator[Tensor]]:
        def keys() -> Iterator[Tensor]:
            for piece in lot:
                # Adding zero turns -0.0 into +0.0, as the two compare equal.
                number = (piece.to(dtype) + 0.0).view(kind)
                yield _ordered(number).long() + half

        return keys

    smallest = [total - k + 1 for k, total in zip(ks, totals, strict=True)]
    keys = kth_smallest_each(smallest, [keys_of(lot) for lot in values], bits, ranks)
    numbers = _ordered(torch.tensor([key - half for key in keys], dtype=kind))
    return [float(number) for number in numbers.view(dtype)]


def _ordered(bits: Tensor) -> Tensor:
    """Map the bits of floats to integers of the same order; the map is its own inverse."""
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)
