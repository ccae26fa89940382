"""Atomic writing of files: a reader finds the old content or the new one, never a part of it."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_TEMPORARY_NAME = re.compile(r"\..+\.\d+-\d+(\.\w+)?")  # as write_atomically names its files


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file atomically: ``write`` fills a temporary file, which then replaces ``path`` in one move.

    A process killed at any moment leaves the old file or the new one, and possibly a temporary file, whose name begins
    with a dot.

    Args:
        path: the file to write.
        write: called with the path of the temporary file, which lies in the same folder and has the same suffix.

    Raises:
        OSError: the file could not be written, for example because the disk is full. The message names the file; an
            existing file at ``path`` is unchanged.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_native_id()}{path.suffix}")
    try:
        # Some libraries create files that only their owner can read; an empty file has the mode of the user's umask.
        temporary.unlink(missing_ok=True)
        temporary.touch(exist_ok=False)  # of this process alone, and no link to elsewhere
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        outcome = "the existing file is unchanged" if path.is_file() else "no file was written"
        raise OSError(
            number,
            f"{path} could not be written ({os.strerror(number)}), and {outcome}; free some disk space or choose a "
            "writable folder",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically; NaN and infinity raise a ValueError, as JSON has neither."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, atomically."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder; no other process may be writing to it."""
    for path in folder.glob(".*"):
        if _TEMPORARY_NAME.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _error_number(error: Exception) -> int | None:
    """Return the ``errno`` of an error of the operating system; None for any other error."""
    if isinstance(error, OSError):
        return error.errno
    # Libraries written in Rust, such as safetensors, give the number in the message only.
    found = re.search(r"\(os error (\d+)\)", str(error))
    return None if found is None else int(found.group(1))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
