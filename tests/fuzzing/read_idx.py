"""Data files in the idx format: the ``.gz`` as it is, and any content with the checksum it has."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import zlib
from pathlib import Path

from lightning_dynprune.app.data.idx import read_idx

ACCEPTED = (ValueError,)


def seeds(folder: Path) -> dict[str, bytes]:
    """Return files as they should be; a first byte of 0 stands for content that is packed first."""
    content = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(6)])
    return {"content": b"\0" + content, "packed": b"\1" + gzip.compress(content, mtime=0)}


def read(data: bytes, folder: Path) -> bool:
    """Read the bytes."""
    content = data[1:]
    packed = gzip.compress(content, mtime=0)
    if data[:1] == b"\1":
        packed = content
        with contextlib.suppress(OSError, EOFError, zlib.error), gzip.open(io.BytesIO(packed)) as file:
            content = file.read(2**20)
    path = folder / "images.gz"
    path.write_bytes(packed)
    try:
        read_idx(path, hashlib.md5(content, usedforsecurity=False).hexdigest())
    except ACCEPTED:
        return False
    return True
