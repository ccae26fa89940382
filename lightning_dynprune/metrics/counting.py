"""What every metric here does: check masks, count on their device, divide without loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

Masks: TypeAlias = Mapping[str, Tensor] | Iterable[Tensor]


def named_masks(masks: Masks, setting: str = "masks") -> dict[str, Tensor]:
    """Return the masks by name, those of an iterable by their position; a bare tensor is one mask.

    Args:
        masks: bool tensors, True = kept.
        setting: what the caller's argument is called, for the messages.

    Raises:
        TypeError: an entry is no bool tensor.
        ValueError: there is no mask, or the masks have no entry between them.
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
    """Add up counts (int64, zero-dimensional, on any device) on ``device``, without waiting for it."""
    return torch.stack([count.to(device) for count in counts]).sum()


def exact(count: Tensor) -> Tensor:
    """Return a count ready to divide, in float64, which holds every count up to 2^53.

    Integer division would give float32, where 16,777,217 already equals 16,777,216 and the last
    connections of a large model are lost; only a device without float64 (MPS) gets float32.
    """
    return count.to(torch.float32 if count.device.type == "mps" else torch.float64)
