"""Scores compared into bools, and bools counted and searched, in as few passes as torch allows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_INTEGER_OF_WIDTH = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes -> dtype


def integer_view(tensor: Tensor) -> Tensor:
    """Return a view of a tensor's entries as integers of the same width: they tell +0.0 from -0.0, and NaN from NaN.

    Args:
        tensor: of a dtype of 1, 2, 4 or 8 bytes.

    Example:
        >>> integer_view(torch.tensor([0.0, -0.0])).tolist()
        [0, -2147483648]
    """
    return tensor.view(_INTEGER_OF_WIDTH[tensor.element_size()])


def compare_to_bool(values: Tensor, bound: float, compare: Callable[..., Tensor] = torch.gt) -> Tensor:
    """Return ``values > bound`` (or another comparison) as bool.

    On a CPU torch compares into floats with vector instructions and into bools without: two passes are three times
    faster than one.
    """
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return compare(values, bound)
    return compare(values, bound, out=torch.empty_like(values)).bool()


def count_true(flags: Tensor) -> Tensor:
    """Return how many entries of a flat bool tensor are True, int64; several times faster than ``count_nonzero``.

    Eight bools are added as one int64; its bytes are the sums, and 128 of them cannot overflow one.
    """
    whole = flags.numel() // 1024 * 1024
    if flags.device.type != "cpu" or not whole or flags.storage_offset() % 8 or not flags.is_contiguous():
        return torch.count_nonzero(flags)
    words = flags[:whole].view(torch.int64).view(-1, 128).sum(1)
    counted = words.view(torch.uint8).sum()
    return counted if whole == flags.numel() else counted + torch.count_nonzero(flags[whole:])


def true_positions(flags: Tensor) -> Tensor:
    """Return the flat indices where ``flags`` is True; three times faster than ``nonzero`` where few are."""
    whole = flags.numel() // 8 * 8
    if flags.device.type != "cpu" or not whole:
        return flags.nonzero().view(-1)
    eights = flags[:whole].view(torch.int64)
    filled = eights.nonzero().view(-1)
    inside = eights.index_select(0, filled).view(torch.bool).nonzero().view(-1)
    found = filled.index_select(0, inside >> 3).mul_(8).add_(inside & 7)
    return found if whole == flags.numel() else torch.cat([found, flags[whole:].nonzero().view(-1) + whole])
