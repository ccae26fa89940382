"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_SCRATCH = re.compile(r"\..+\.\d+-\d+(\.\w+)?")  # as write_atomically names them


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in the place of ``path`` in one move.

    A process killed at any moment leaves the old file or the new one, and perhaps a temporary file, whose name begins
    with a dot.

    Args:
        path: the file to be.
        write: called with the temporary file's path, which keeps ``path``'s suffix.

    Raises:
        OSError: it could not be written, as where the disk is full; the message names the file, and what stood there is
            as it was.
    """
    scratch = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_native_id()}{path.suffix}")
    try:
        write(scratch)
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    except Exception as error:
        number = _number_of(error)
        if number is None:
            raise
        stands = "the file that stood there is as it was" if path.is_file() else "no file was written"
        raise OSError(
            number,
            f"{path} could not be written ({os.strerror(number)}), and {stands}; make room or give a folder that can "
            "be written",
        ) from error
    finally:
        with suppress(OSError):
            scratch.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically; numbers that JSON lacks (NaN) are refused."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda scratch: _write_text(scratch, text))


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder which nobody else writes to now."""
    for path in folder.glob(".*"):
        if _SCRATCH.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _number_of(error: Exception) -> int | None:
    """Return the number of the operating system's error that this one is; None where it is none."""
    if isinstance(error, OSError):
        return error.errno
    # What is written in Rust, as safetensors is, says it in its message.
    found = re.search(r"\(os error (\d+)\)", str(error))
    return None if found is None else int(found.group(1))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
