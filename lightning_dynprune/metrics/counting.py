"""Functions that all metrics use: checking masks, counting on their device, exact division."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

Masks: TypeAlias = Mapping[str, Tensor] | Iterable[Tensor]


def named_masks(masks: Masks, setting: str = "masks") -> dict[str, Tensor]:
    """Return masks by name; those of an iterable are named by position, a single tensor "0".

    Args:
        masks: bool tensors, True = kept.
        setting: name of the caller's argument, for messages.

    Raises:
        TypeError: an entry is not a bool tensor.
        ValueError: there is no mask, or no mask has any entries.
    """
    if isinstance(masks, Mapping):
        found = dict(masks)
    elif isinstance(masks, Tensor):
        found = {"0": masks}
    elif isinstance(masks, Iterable):
        found = {str(position): mask for position, mask in enumerate(masks)}
    else:
        raise TypeError(
            f"{setting}={masks!r} is not accepted; give a mapping of names to bool tensors, or bool tensors"
        )
    for name, mask in found.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            given = f"a {mask.dtype} tensor" if isinstance(mask, Tensor) else repr(mask)
            raise TypeError(f"{setting}[{name!r}] is {given}; give a bool tensor, True = kept")
    if not any(mask.numel() for mask in found.values()):
        raise ValueError(f"{setting} has no entries to count; give at least one mask that is not empty")
    return found


def total(counts: Iterable[Tensor], device: torch.device) -> Tensor:
    """Return the sum of int64 counts from any devices, computed on ``device`` without synchronizing it."""
    return torch.stack([count.to(device) for count in counts]).sum()


def exact(count: Tensor) -> Tensor:
    """Return a count as float64, which is exact up to 2^53; as float32 on MPS, which has no float64.

    Dividing integer tensors gives float32, which rounds counts above 16,777,216.
    """
    return count.to(torch.float32 if count.device.type == "mps" else torch.float64)
