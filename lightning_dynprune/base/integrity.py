"""Damage to checkpoints, which ``torch.load`` does not notice: a flipped bit is a weight like any other to it."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_CHUNK = 2**20  # bytes read at once
_ODD = (RuntimeError, ValueError, LookupError, OverflowError)  # what zipfile raises on an odd directory


class DamagedError(ValueError):
    """A checkpoint is not as it was written."""


def checksum(parts: Iterable[Tensor | str]) -> int:
    """Return the CRC-32 of some tensors' bytes, row by row, and texts, one after the other."""
    total = 0
    for part in parts:
        total = zlib.crc32(part.encode() if isinstance(part, str) else _bytes_of(part), total)
    return total


def state_checksum(state: Any) -> int:
    """Return 32 bits that change with any bit of a state, its types, keys or shapes; the same on every machine.

    Args:
        state: tensors and plain values, in mappings, lists and tuples; the order of a mapping's keys does not count.

    Raises:
        TypeError: there is something else in it.

    Example:
        >>> a, b = {"mask": torch.tensor([1, 0]), "step": 3}, {"step": 3, "mask": torch.tensor([1, 1])}
        >>> state_checksum(a) == state_checksum(dict(reversed(a.items()))), state_checksum(a) == state_checksum(b)
        (True, False)
    """
    return _added(0, state)


def validate_checkpoint_file(path: str | os.PathLike[str], setting: str) -> None:
    """Raise where a checkpoint is cut off, or one of its parts does not match the checksum written beside it.

    ``torch.save`` writes a zip archive with a CRC-32 of every part, and ``torch.load`` compares none. The file is read
    once. What is no such archive, was written without checksums (``torch.serialization.set_crc32_options``) or unfolds
    into more than the file, as none of torch's does, is left to whoever loads it; so is what is no local file.

    Args:
        path: the checkpoint.
        setting: what names it, for the message.

    Raises:
        DamagedError: naming the part.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        return
    what = f"{setting}={path}"
    with open(path, "rb") as opened:
        if opened.read(4) != b"PK\x03\x04":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if not any(part.CRC for part in parts) or _unfolds(parts, os.path.getsize(path)):
                return
            for part in parts:
                _read_through(archive, part)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, *_ODD) as error:
        raise DamagedError(
            f"{what} is damaged or cut off ({error}); go on from an older checkpoint, or begin anew"
        ) from None


def _unfolds(parts: Sequence[zipfile.ZipInfo], size: int) -> bool:
    compressed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    return compressed or sum(part.file_size for part in parts) > size


def _read_through(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> None:
    with archive.open(part) as opened:
        while opened.read(_CHUNK):
            pass


def _added(crc: int, state: Any) -> int:
    if isinstance(state, Mapping):
        if odd := [key for key in state if not isinstance(key, (str, int))]:
            raise TypeError(f"a state has a {type(odd[0]).__name__} for a key; texts and whole numbers are expected")
        crc = _text(crc, f"mapping {len(state)}")
        for key in sorted(state, key=lambda key: (type(key).__name__, key)):
            crc = _added(_added(crc, key), state[key])
        return crc
    if isinstance(state, (list, tuple)):
        crc = _text(crc, f"{type(state).__name__} {len(state)}")
        for entry in state:
            crc = _added(crc, entry)
        return crc
    if isinstance(state, Tensor):
        # Others may announce far more entries than their file holds.
        if state.layout != torch.strided or state.is_meta or state.is_quantized or _is_expanded(state):
            raise TypeError(f"a state holds a tensor of {tuple(state.shape)} entries that are not all there")
        crc = _text(crc, f"{state.dtype} {tuple(state.shape)}")
        # Row by row, whatever the layout: strides and devices may be others where it is loaded.
        return zlib.crc32(_bytes_of(state), crc)
    if state is None or isinstance(state, (bool, int, float, str)):
        return _text(crc, f"{type(state).__name__} {state!r}")
    raise TypeError(f"a state holds a {type(state).__name__}; tensors, plain values and nestings of them are expected")


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _is_expanded(tensor: Tensor) -> bool:
    return any(size > 1 and not stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _text(crc: int, text: str) -> int:
    return zlib.crc32(text.encode() + b"\0", crc)
