"""Zeros with and without a sign: both count as pruned, and a sign takes one bit more."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_dynprune.base import integer_view

# Bits of -0.0 as the integers of integer_view. Integers and the "fnuz" kinds of float8 have no such value.
_NEGATIVE_ZERO = {
    torch.float64: -(2**63),
    torch.float32: -(2**31),
    torch.float16: -(2**15),
    torch.bfloat16: -(2**15),
    torch.float8_e4m3fn: 2**7,
    torch.float8_e5m2: 2**7,
    torch.complex64: -(2**31),
}


def real_numbers(dtype: torch.dtype) -> int:
    """Return how many real numbers an entry consists of: two if it is complex."""
    return 2 if dtype.is_complex else 1


def split_zeros(flat: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return which entries are not zero, and which of their real numbers are -0.0 in entries that are.

    Args:
        flat: the entries of a tensor, of one dimension.

    Returns:
        One bool an entry, and one bool a real number of each entry; None in place of the second if it has no True.

    Example:
        >>> split_zeros(torch.tensor([1.0, 0.0, -0.0]))
        (tensor([ True, False, False]), tensor([False, False,  True]))
        >>> split_zeros(torch.tensor([1.0, 0.0]))
        (tensor([ True, False]), None)
    """
    numbers = _numbers(flat)
    negative = _NEGATIVE_ZERO.get(flat.dtype)
    if negative is None:
        return integer_view(flat) != 0, None
    signed = numbers == negative
    kept = ((numbers != 0) & ~signed).view(flat.numel(), -1).any(1) if flat.numel() else flat.new_zeros(0).bool()
    signed &= ~kept.repeat_interleave(real_numbers(flat.dtype))
    return kept, signed if bool(signed.any()) else None


def set_signs(flat: Tensor, signed: Tensor) -> None:
    """Set real numbers of a flat tensor to -0.0, in place.

    Args:
        flat: the entries.
        signed: one bool a real number of each entry.

    Raises:
        ValueError: a sign belongs to a number that is not zero, or the dtype has no -0.0.
    """
    numbers, negative = _numbers(flat), _NEGATIVE_ZERO.get(flat.dtype)
    if negative is None or bool((numbers[signed] != 0).any()):
        raise ValueError("a sign of a zero belongs to no zero; the file is damaged")
    numbers[signed] = negative


def _numbers(flat: Tensor) -> Tensor:
    return integer_view(torch.view_as_real(flat).view(-1) if flat.is_complex() else flat)
