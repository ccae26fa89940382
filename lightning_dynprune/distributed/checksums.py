"""The checksum by which processes compare their masks."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK_SIZE = 2**19  # connections hashed at once; a multiple of 8
# The mixing constants of the "splitmix64" generator (Steele, Lea, Flood, 2014), as signed 64-bit numbers.
_ODD_1 = 0x9E3779B97F4A7C15 - 2**64
_ODD_2 = 0xBF58476D1CE4E5B9 - 2**64
_ODD_3 = 0x94D049BB133111EB - 2**64


def mask_checksum(mask: Tensor) -> int:
    """Return a signed 64-bit checksum of a mask, computed on the mask's device.

    Eight connections are read as one number, mixed with their position and added up, so that order matters. Unlike the
    CRC of a saved state (:func:`lightning_dynprune.base.state_checksum`) it copies no mask to the CPU.

    Args:
        mask: bool, of any shape; read in row-major order.

    Example:
        >>> a, b = torch.tensor([True, False, True]), torch.tensor([False, True, True])
        >>> mask_checksum(a) == mask_checksum(a.clone()), mask_checksum(a) == mask_checksum(b)
        (True, False)
    """
    flat = mask.reshape(-1).view(torch.uint8)
    total = torch.tensor(flat.numel(), device=mask.device)
    for number, piece in enumerate(torch.split(flat, _CHUNK_SIZE)):
        if piece.numel() % 8 or piece.storage_offset() % 8:
            piece = torch.nn.functional.pad(piece, (0, -piece.numel() % 8))
        words = piece.view(torch.int64)
        start = number * _CHUNK_SIZE // 8
        positions = torch.arange(start, start + words.numel(), device=mask.device)
        # Odd multipliers lose no bit; the shift moves the high bits, where products mix best, down again.
        mixed = (words + positions * _ODD_1) * _ODD_2
        mixed = (mixed ^ (mixed >> 29)) * _ODD_3
        total = total + (mixed ^ (mixed >> 32)).sum()
    return int(total)
