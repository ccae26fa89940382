"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in the place of ``path`` in one move.

    A process killed at any moment leaves the old file or the new one.

    Args:
        path: the file to be.
        write: called with the temporary file's path, which keeps ``path``'s suffix.
    """
    scratch = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(scratch)
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically; numbers that JSON lacks (NaN) are refused."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda scratch: _write_text(scratch, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
