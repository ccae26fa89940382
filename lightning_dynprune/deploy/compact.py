"""Pruned weights as one bit a connection and the values that are left, so that their size can be measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_dynprune.atomic import write_atomically

KEPT = "#kept"
VALUES = "#values"


def write_dense(weights: Mapping[str, Tensor], path: Path) -> int:
    """Write a state dict as it is; return the bytes on disk."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, lambda scratch: save_file(whole, scratch))
    return path.stat().st_size


def write_compact(weights: Mapping[str, Tensor], pruned: set[str], path: Path) -> int:
    """Write a state dict with its pruned tensors as bit mask and non-zero values; return the bytes on disk.

    Args:
        weights: the state dict.
        pruned: names of the tensors to pack; the others are written as they are.
        path: the safetensors file.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        flat = tensor.detach().cpu().flatten()
        if name in pruned:
            kept = flat != 0
            packed[name + KEPT] = torch.from_numpy(np.packbits(kept.numpy()))
            packed[name + VALUES] = flat[kept]
        else:
            packed[name] = tensor.detach().cpu().contiguous()
    write_atomically(path, lambda scratch: save_file(packed, scratch))
    return path.stat().st_size


def read_compact(path: Path, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Return the state dict that ``write_compact`` was given.

    Args:
        path: the file.
        shapes: shape of each tensor of the model, by name.
    """
    packed = load_file(path)
    weights = {}
    for name, shape in shapes.items():
        if name in packed:
            weights[name] = packed[name]
            continue
        values = packed[name + VALUES]
        kept = np.unpackbits(packed[name + KEPT].numpy(), count=shape.numel()).astype(bool)
        flat = torch.zeros(shape.numel(), dtype=values.dtype)
        flat[torch.from_numpy(kept)] = values
        weights[name] = flat.reshape(shape)
    return weights
