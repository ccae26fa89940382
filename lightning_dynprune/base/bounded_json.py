"""JSON from files that are not trusted, parsed only where its values take little more memory than its text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_LARGEST = 2**24  # bytes of a file
_ALLOWANCE = 2**26 - 2**24  # bytes beyond twice the text; the rest is left for what is done with the values
# Bytes that CPython takes at most for a list, a mapping, an entry of either, and a text without its characters.
_LIST, _MAPPING, _ENTRY, _TEXT = 112, 240, 64, 110


PairsHook = Callable[[list[tuple[str, Any]]], Any]


def read_json(path: Path, pairs_hook: PairsHook | None = None) -> Any:
    """Return the value in a JSON file; see :func:`parse_json`.

    Args:
        path: the file.
        pairs_hook: makes a mapping of the pairs of an object.

    Raises:
        ValueError: the file is too large, is no JSON or would take too much memory.
        OSError: the file cannot be read.
    """
    if (size := path.stat().st_size) > _LARGEST:
        raise ValueError(f"it has {size} bytes; at most {_LARGEST} are read")
    return parse_json(path.read_bytes(), pairs_hook)


def parse_json(text: bytes | str, pairs_hook: PairsHook | None = None, accepts_nan: bool = False) -> Any:
    """Return the value of a JSON text; refuse one whose values could take more than twice its bytes plus 64 MB.

    A list without entries takes two bytes of text and 72 of memory, so that a text of some megabytes could take
    gigabytes. The memory is estimated from the numbers of brackets, commas and quotes before anything is parsed.

    Args:
        text: the JSON; bytes are UTF-8.
        pairs_hook: makes a mapping of the pairs of an object.
        accepts_nan: whether NaN and infinity are accepted, which Python writes although JSON has neither.

    Raises:
        ValueError: the text is no JSON, is nested too deeply, holds NaN, or would take too much memory.

    Example:
        >>> parse_json('{"a": [1, 2]}')
        {'a': [1, 2]}
        >>> parse_json(b"[" + b"{}," * 1_000_000 + b"0]")
        Traceback (most recent call last):
        ...
        ValueError: it holds more values than 3000003 bytes may take memory for
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if _memory(data) > 2 * len(data) + _ALLOWANCE:
        raise ValueError(f"it holds more values than {len(data)} bytes may take memory for")
    reject = None if accepts_nan else _reject_constant
    try:
        return json.loads(data, object_pairs_hook=pairs_hook, parse_constant=reject)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _memory(data: bytes) -> int:
    """Return how many bytes the text and its values take at most."""
    # One character beyond the basic plane makes each of its text take four bytes; an escape may write it.
    is_wide = not data.isascii() or b"\\u" in data
    brackets = _LIST * data.count(b"[") + _MAPPING * data.count(b"{")
    entries = _ENTRY * data.count(b",") + _TEXT * data.count(b'"') // 2
    return brackets + entries + (9 if is_wide else 3) * len(data)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
