"""Write safetensors files whose bytes depend only on their content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


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
