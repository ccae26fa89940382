"""Read safetensors files whose header is not too large, and write them so that their bytes depend on content only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

# Bytes of header beyond a share of the file: some thousand tensors. Names and metadata take up to 30 times as much.
_HEADER, _SHARE = 2**20, 32


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file for reading, as ``safe_open`` does, unless its header is too large for its file.

    Args:
        path: the file.

    Raises:
        ValueError: the header takes more than 1 MiB and a thirty-second of the file.
        SafetensorError: the file is damaged.
    """
    if not is_header_bounded(path):
        raise ValueError(f"its header takes more than {_HEADER + path.stat().st_size // _SHARE} bytes")
    with safe_open(path, framework="pt") as file:
        yield file


def is_header_bounded(path: Path) -> bool:
    """Return whether the header of a safetensors file is no larger than its tensors explain."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    size = path.stat().st_size
    # A header that is longer than its file is refused by the reader.
    return length > size or length <= _HEADER + size // _SHARE


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata so that equal content makes equal files.

    safetensors writes metadata in an order that differs from file to file; this function sorts them by name.

    Args:
        tensors: contiguous tensors, none sharing memory with another.
        path: the file.
        metadata: texts stored in the file's header.
    """
    save_file(dict(tensors), path, dict(metadata))
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        # The sorted header is as long; safetensors pads headers with spaces.
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))
