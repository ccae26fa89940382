"""Compress numbers byte plane by byte plane: the first bytes of all numbers, then the second bytes, and so on.

The exponents of weights resemble each other and the fractions are noise, so exponents compress better when they are
stored together. HDF5 calls this the shuffle filter.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

# On magnitude-pruned float32 weights, level 19 saves 2 % more and takes 30 times as long.
_LEVEL = 3


def compress(data: Tensor, width: int) -> Tensor:
    """Return the bytes of numbers as one zstd frame of their byte planes.

    Args:
        data: uint8, flat, on the CPU.
        width: bytes of one number.

    Raises:
        ImportError: the package zstandard is not installed.
    """
    planes = data.view(-1, width).T.contiguous()
    frame = _zstandard().ZstdCompressor(level=_LEVEL, write_checksum=False).compress(planes.numpy().data)
    return torch.from_numpy(np.frombuffer(frame, np.uint8).copy())


def decompress(frame: Tensor, length: int, width: int) -> Tensor:
    """Return the bytes that :func:`compress` was called with.

    Nothing is allocated if the frame does not announce exactly ``length`` bytes.

    Args:
        frame: uint8, flat, on the CPU.
        length: expected number of bytes.
        width: bytes of one number.

    Raises:
        ValueError: ``frame`` is not a zstd frame of ``length`` bytes.
        ImportError: the package zstandard is not installed.
    """
    zstandard = _zstandard()
    try:
        announced = zstandard.frame_content_size(frame.numpy().data)
        if announced != length:
            raise ValueError(f"a zstd frame announces {announced} bytes; expected {length}")
        planes = zstandard.ZstdDecompressor().decompress(frame.numpy().data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"not a zstd frame of {length} bytes: {error}") from error
    # One copy only, as the bytes may be most of what the file unfolds into.
    return torch.from_numpy(np.frombuffer(planes, np.uint8).reshape(width, -1).T.copy()).view(-1)


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError as error:
        raise ImportError(
            "compact files with zstd need the package zstandard; pip install 'lightning-dynprune[compact]'"
        ) from error
    return zstandard
