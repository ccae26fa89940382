"""safetensors files whose bytes follow from their content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, so that equal ones make equal files.

    safetensors puts metadata down in an order that it draws anew for each file; here they are in that of their names.

    Args:
        tensors: contiguous, none sharing memory with another.
        path: the file.
        metadata: what is written beside them.
    """
    save_file(dict(tensors), path, dict(metadata))
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        # The same characters in another order; spaces fill the header up, as safetensors has it.
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))
