"""What a compact file says of itself, believed only where it agrees with itself and with what is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, TypeGuard

import torch

from lightning_dynprune.base import check_count, checksum, is_whole

FORMAT = "lightning_dynprune.compact"
VERSION = "1"
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
        *(torch.int64, torch.int32, torch.int16, torch.int8),
        *(torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool),
    )
}
WHOLE, KEPT, VALUES = "whole", "kept", "values"
PLAIN, ZSTD = "plain", "zstd"
_MOST_DIMS, _MOST_ENTRIES = 64, 2**62
# A frame cannot say more with fewer bytes: a block of 128 KiB of one value takes four.
_MOST_EXPANSION = 2**15


@dataclass(frozen=True)
class Entry:
    """How one tensor is stored.

    Args:
        dtype: its name without "torch.".
        shape: as it was.
        parts: part -> codec; ``whole``, or the bits of what is ``kept`` and the ``values`` kept.
        crc32: of the parts as they lie in the file, in their order.
        count: entries kept; None where the tensor is stored whole.
    """

    dtype: str
    shape: tuple[int, ...]
    parts: dict[str, str]
    crc32: int
    count: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is unknown; known: {', '.join(DTYPES)}")
        if not isinstance(self.shape, (list, tuple)) or not all(_is_size(size) for size in self.shape):
            raise ValueError(f"{str(self.shape)[:200]} is no shape")
        # Sizes beside a zero make no entries, but no tensor can have them either.
        if len(self.shape) > _MOST_DIMS or prod(size for size in self.shape if size) > _MOST_ENTRIES:
            raise ValueError(f"a shape of {len(self.shape)} dimensions has more entries than a tensor can have")
        names = (WHOLE,) if self.count is None else (KEPT, VALUES)
        if not isinstance(self.parts, dict) or tuple(self.parts) != names:
            raise ValueError(f"parts {self.parts!r} are not {' and '.join(names)}")
        if unknown := [codec for codec in self.parts.values() if codec not in (PLAIN, ZSTD)]:
            raise ValueError(f"codec {unknown[0]!r} is unknown; known: {PLAIN}, {ZSTD}")
        if self.count is not None and not (_is_size(self.count) and self.count <= self.numel):
            raise ValueError(f"{self.count!r} kept entries do not fit the shape {list(self.shape)}")
        if not _is_size(self.crc32):
            raise ValueError(f"{self.crc32!r} is no checksum")

    @property
    def numel(self) -> int:
        """Entries of the tensor."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an entry."""
        return DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in memory."""
        return self.numel * self.itemsize

    def width(self, part: str) -> int:
        """Return the bytes of one number of a part."""
        return 1 if part == KEPT else self.itemsize

    def length(self, part: str) -> int:
        """Return the bytes of a part before any compression."""
        if part == KEPT:
            return (self.numel + 7) // 8
        return self.nbytes if self.count is None else self.count * self.itemsize


def to_metadata(contents: Mapping[str, Entry | str]) -> dict[str, str]:
    """Return the metadata of a compact file: name -> how it is stored, or the name it is tied to."""
    text = json.dumps(
        {name: entry if isinstance(entry, str) else asdict(entry) for name, entry in contents.items()},
        separators=(",", ":"),
    )
    return {"format": FORMAT, "version": VERSION, "tensors": text, "crc32": str(checksum([text]))}


def from_metadata(metadata: Mapping[str, str]) -> dict[str, Entry | str]:
    """Return what :func:`to_metadata` was given.

    Raises:
        ValueError: the metadata are another file's, or damaged; the message names the tensor where one is to blame.
    """
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"format {metadata.get('format')!r} is not {FORMAT!r}; load_compact reads what save_compact wrote"
        )
    if metadata.get("version") != VERSION:
        raise ValueError(f"version {metadata.get('version')!r} is unknown; this release reads version {VERSION!r}")
    text = metadata.get("tensors", "")
    if metadata.get("crc32") != str(checksum([text])):
        raise ValueError("the list of tensors does not match its checksum; the file is damaged")
    try:
        device_name = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the list of tensors is no JSON: {error}") from error
    if not isinstance(device_name, dict):
        raise ValueError("the list of tensors is no mapping from names")
    contents: dict[str, Entry | str] = {}
    for name, fields in device_name.items():
        contents[name] = _entry(name, fields, contents)
    return contents


def validate_lengths(contents: Mapping[str, Entry | str], found: Mapping[str, int]) -> None:
    """Raise ValueError where the file does not hold exactly the parts that it says, in the lengths that it says."""
    expected = {}
    for name, entry in _entries(contents):
        for part, codec in entry.parts.items():
            key, length = f"{part}:{name}", entry.length(part)
            expected[key] = length
            if key not in found:
                raise ValueError(f"tensor {name!r}: its part {part!r} is missing")
            if codec == ZSTD and found[key] * _MOST_EXPANSION < length:
                raise ValueError(
                    f"tensor {name!r}: its part {part!r} has {found[key]} bytes, which cannot hold {length} compressed"
                )
            if found[key] >= length if codec == ZSTD else found[key] != length:
                raise ValueError(
                    f"tensor {name!r}: its part {part!r} has {found[key]} bytes; "
                    f"expected {'fewer than ' if codec == ZSTD else ''}{length} for {_what(entry)}"
                )
    if foreign := sorted(set(found) - set(expected)):
        raise ValueError(f"{foreign[0]!r} belongs to no tensor of the file")


def check_limit(limit: int | None, contents: Mapping[str, Entry | str]) -> None:
    """Raise ValueError, naming the first tensor that goes over it, where the tensors take more than ``limit`` bytes."""
    if limit is None:
        return
    limit = check_count("limit", limit)
    total = 0
    for name, entry in _entries(contents):
        total += entry.nbytes
        if total > limit:
            raise ValueError(f"tensor {name!r}: {list(entry.shape)} {entry.dtype} goes over limit={limit} bytes")


def _entry(name: str, fields: Any, earlier: Mapping[str, Entry | str]) -> Entry | str:
    if isinstance(fields, str):
        if not isinstance(earlier.get(fields), Entry):
            raise ValueError(f"tensor {name!r} is tied to {fields!r}, which is no tensor before it")
        return fields
    try:
        entry = Entry(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"tensor {name!r}: {error}") from error
    return entry


def _entries(contents: Mapping[str, Entry | str]) -> list[tuple[str, Entry]]:
    return [(name, entry) for name, entry in contents.items() if isinstance(entry, Entry)]


def _what(entry: Entry) -> str:
    kept = "" if entry.count is None else f", {entry.count} kept"
    return f"shape {list(entry.shape)} {entry.dtype}{kept}"


def _is_size(value: Any) -> TypeGuard[int]:
    return is_whole(value, 0, _MOST_ENTRIES)
