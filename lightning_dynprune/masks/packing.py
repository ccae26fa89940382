"""Masks packed to bits, eight connections a byte."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from lightning_dynprune.masks.layouts import CHUNK_SIZE
from lightning_dynprune.targets import Target

# Eight bools read as one int64, times this number: the i-th lowest of them becomes the i-th bit of the highest byte.
_GATHER_BITS = 0x0102040810204080


def pack_bits(mask: Tensor) -> Tensor:
    """Return a bool tensor as bytes on the CPU, eight entries each, the first in the lowest bit.

    Example:
        >>> pack_bits(torch.tensor([True, False, True])).tolist()
        [5]
    """
    return _packed(mask).cpu()


def unpack_bits(packed: Tensor, numel: int, name: str) -> Tensor:
    """Return the flat bool tensor of ``numel`` entries that :func:`pack_bits` packed.

    Args:
        packed: uint8.
        numel: number of entries of the mask.
        name: name of the target, for messages.

    Raises:
        ValueError: ``packed`` has another dtype or length than ``numel`` entries need, or bits are set past the end.
    """
    if packed.dtype != torch.uint8 or packed.shape != ((numel + 7) // 8,):
        raise ValueError(
            f"mask of {name}: {packed.dtype} {tuple(packed.shape)} does not hold {numel} connections; "
            f"expected uint8 ({(numel + 7) // 8},)"
        )
    place = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=packed.device)
    bits = torch.cat([(piece.unsqueeze(1) & place).ne(0).view(-1) for piece in torch.split(packed, CHUNK_SIZE)])
    if bits[numel:].any():
        raise ValueError(f"mask of {name}: bits are set past its {numel} connections; the file is damaged")
    return bits[:numel]


def pack_target(target: Target, mask: Tensor) -> Tensor:
    """Return the whole mask of a target as bits; where the target is sharded, all processes call this.

    Args:
        target: the target.
        mask: its mask, or the part of it that this process holds.
    """
    shard = target.shard
    if shard is None or not shard.is_row_sharded or math.prod(shard.shape[1:]) % 8:
        return pack_bits(target.full_tensor(mask))
    # Rows end at bytes, so the processes can send bits: an eighth of the message.
    width = math.prod(shard.shape[1:]) // 8
    rows = replace(shard, shape=(shard.shape[0], width))
    return rows.full_tensor(_packed(mask).view(-1, width)).reshape(-1).cpu()


def _packed(mask: Tensor) -> Tensor:
    packed = []
    for piece in torch.split(mask.reshape(-1), CHUNK_SIZE):
        if piece.numel() % 8 or piece.storage_offset() % 8:
            piece = torch.nn.functional.pad(piece.view(torch.uint8), (0, -piece.numel() % 8))
        packed.append((piece.view(torch.int64) * _GATHER_BITS >> 56).to(torch.uint8))
    return torch.cat(packed)
