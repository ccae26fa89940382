"""Checksums of states and validation of checkpoint files; ``torch.load`` detects neither flipped nor missing bits."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_dynprune.base.text import printable
from lightning_dynprune.base.zip_archive import MAGIC, open_archive

_CHUNK = 2**20  # bytes read at once
_DIRECTORY_ERRORS = (RuntimeError, ValueError, LookupError, OverflowError)  # zipfile, on a damaged directory


class DamagedError(ValueError):
    """A checkpoint is damaged: its content differs from what was written."""


def checksum(parts: Iterable[Tensor | str]) -> int:
    """Return the CRC-32 of the bytes of tensors, in row-major order, and of strings, one after the other."""
    total = 0
    for part in parts:
        total = zlib.crc32(part.encode() if isinstance(part, str) else _row_major_bytes(part), total)
    return total


def state_checksum(state: Any) -> int:
    """Return a CRC-32 over the values, types, keys and shapes of a nested state; the same on every machine.

    Args:
        state: tensors and plain values, nested in mappings, lists and tuples; the order of a mapping's keys does not
            matter.

    Raises:
        TypeError: the state holds an object of another type.

    Example:
        >>> a, b = {"mask": torch.tensor([1, 0]), "step": 3}, {"step": 3, "mask": torch.tensor([1, 1])}
        >>> state_checksum(a) == state_checksum(dict(reversed(a.items()))), state_checksum(a) == state_checksum(b)
        (True, False)
    """
    return _update_crc(0, state)


def validate_checkpoint_file(path: str | os.PathLike[str], setting: str) -> None:
    """Raise if a checkpoint file is truncated or one of its records does not match the stored checksum.

    ``torch.save`` writes a zip archive with a CRC-32 of every record, and ``torch.load`` compares none of them. The
    file is read once. Not checked here, but left to the code that loads the file: paths that are no local file, files
    of another format, archives without checksums (``torch.serialization.set_crc32_options``), and archives that unpack
    to more than their size, which torch never writes. It takes no more memory than the file, plus 64 MB.

    Args:
        path: the checkpoint.
        setting: name of the setting that gives the path, for the message.

    Raises:
        DamagedError: the file is damaged; the message names the record.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        return
    what = f"{setting}={path}"
    with open(path, "rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            return
    try:
        with open_archive(path) as archive:
            records = archive.infolist()
            if not any(record.CRC for record in records) or _unpacks_larger(records, os.path.getsize(path)):
                return
            for record in records:
                _read_record(archive, record)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, *_DIRECTORY_ERRORS) as error:
        raise DamagedError(
            f"{what} is damaged or truncated ({printable(str(error))}); resume from an older checkpoint, or "
            "start a new run"
        ) from None


def _unpacks_larger(records: Sequence[zipfile.ZipInfo], size: int) -> bool:
    compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    return compressed or sum(record.file_size for record in records) > size


def _read_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Read a record to its end, where zipfile compares its checksum."""
    with archive.open(record) as opened:
        while opened.read(_CHUNK):
            pass


def _update_crc(crc: int, state: Any) -> int:
    if isinstance(state, Mapping):
        if odd := [key for key in state if not isinstance(key, (str, int))]:
            raise TypeError(f"a key of the state is a {type(odd[0]).__name__}; str and int are accepted")
        crc = _update_crc_text(crc, f"mapping {len(state)}")
        for key in sorted(state, key=lambda key: (type(key).__name__, key)):
            crc = _update_crc(_update_crc(crc, key), state[key])
        return crc
    if isinstance(state, (list, tuple)):
        crc = _update_crc_text(crc, f"{type(state).__name__} {len(state)}")
        for entry in state:
            crc = _update_crc(crc, entry)
        return crc
    if isinstance(state, Tensor):
        # Other tensors may claim far more entries than their file holds.
        if not stores_entries(state):
            raise TypeError(
                f"the state holds a tensor of shape {tuple(state.shape)} that does not store all its entries"
            )
        crc = _update_crc_text(crc, f"{state.dtype} {tuple(state.shape)}")
        # In row-major order: strides and devices may differ after loading.
        return zlib.crc32(_row_major_bytes(state), crc)
    if state is None or isinstance(state, (bool, int, float, str)):
        return _update_crc_text(crc, f"{type(state).__name__} {state!r}")
    raise TypeError(
        f"the state holds a {type(state).__name__}; tensors, plain values, and mappings, lists and tuples of them are "
        "accepted"
    )


def _row_major_bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def stores_entries(tensor: Tensor) -> bool:
    """Return whether the memory of a tensor holds each of its entries; expanded and sparse ones claim any number."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _update_crc_text(crc: int, text: str) -> int:
    return zlib.crc32(text.encode() + b"\0", crc)
