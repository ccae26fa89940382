"""Describe and validate the contents of a compact file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, TypeGuard

import torch

from lightning_dynprune.base import check_count, checksum, is_whole, parse_json
from lightning_dynprune.deploy.compact.signed_zeros import real_numbers

FORMAT = "lightning_dynprune.compact"
# Version 2 adds the signs of zeros; a file without any is written as version 1, which earlier releases read.
VERSIONS = ("1", "2")
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
        *(torch.int64, torch.int32, torch.int16, torch.int8),
        *(torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool),
    )
}
WHOLE, KEPT, VALUES, SIGNS = "whole", "kept", "values", "signs"
PLAIN, ZSTD = "plain", "zstd"
_MAX_DIMS, _MAX_ENTRIES = 64, 2**62
# Largest possible ratio of zstd: a block of 128 KiB of one value takes four bytes.
_MAX_EXPANSION = 2**15


@dataclass(frozen=True)
class Entry:
    """The storage of one tensor.

    Args:
        dtype: its name without the prefix "torch.".
        shape: the tensor's shape.
        parts: part -> codec; either ``whole``, or ``kept`` (bit mask), ``values`` (kept values) and, where a pruned
            entry is -0.0, ``signs`` (bit mask).
        crc32: checksum of the parts as stored, in their order.
        count: number of kept entries; None where the tensor is stored whole.

    Raises:
        ValueError: a field is invalid.
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
            raise ValueError(f"{str(self.shape)[:200]} is not a shape")
        # torch limits the sizes of a shape even where another size is zero.
        if len(self.shape) > _MAX_DIMS or prod(size for size in self.shape if size) > _MAX_ENTRIES:
            raise ValueError(f"a shape of {len(self.shape)} dimensions has more entries than a tensor can have")
        accepted = [(WHOLE,)] if self.count is None else [(KEPT, VALUES), (KEPT, VALUES, SIGNS)]
        if not isinstance(self.parts, dict) or tuple(self.parts) not in accepted:
            raise ValueError(f"parts {str(self.parts)[:200]} are not {' or '.join(map(' and '.join, accepted))}")
        if unknown := [codec for codec in self.parts.values() if codec not in (PLAIN, ZSTD)]:
            raise ValueError(f"codec {str(unknown[0])[:200]!r} is unknown; known: {PLAIN}, {ZSTD}")
        if self.count is not None and not (_is_size(self.count) and self.count <= self.numel):
            raise ValueError(f"{self.count!r} kept entries do not fit the shape {list(self.shape)}")
        if not _is_size(self.crc32):
            raise ValueError(f"{self.crc32!r} is not a checksum")

    @property
    def numel(self) -> int:
        """Number of entries of the tensor."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one entry."""
        return DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in memory."""
        return self.numel * self.itemsize

    def width(self, part: str) -> int:
        """Return the bytes of one number of a part."""
        return 1 if part in (KEPT, SIGNS) else self.itemsize

    def length(self, part: str) -> int:
        """Return the bytes of a part before compression."""
        if part == KEPT:
            return (self.numel + 7) // 8
        if part == SIGNS:
            return (self.numel * real_numbers(DTYPES[self.dtype]) + 7) // 8
        return self.nbytes if self.count is None else self.count * self.itemsize


def to_metadata(contents: Mapping[str, Entry | str]) -> dict[str, str]:
    """Return the metadata of a compact file.

    Args:
        contents: name -> how the tensor is stored, or the name that it is tied to.
    """
    text = json.dumps(
        {name: entry if isinstance(entry, str) else asdict(entry) for name, entry in contents.items()},
        separators=(",", ":"),
    )
    has_signs = any(isinstance(entry, Entry) and SIGNS in entry.parts for entry in contents.values())
    return {"format": FORMAT, "version": VERSIONS[has_signs], "tensors": text, "crc32": str(checksum([text]))}


def from_metadata(metadata: Mapping[str, str]) -> dict[str, Entry | str]:
    """Return the contents that :func:`to_metadata` was called with.

    Raises:
        ValueError: the metadata are those of another kind of file, or damaged; the message names the tensor where one
            is at fault.
    """
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"format {metadata.get('format')!r} is not {FORMAT!r}; load_compact reads what save_compact wrote"
        )
    if metadata.get("version") not in VERSIONS:
        raise ValueError(
            f"version {metadata.get('version')!r} is unknown; this release reads versions {' and '.join(VERSIONS)}"
        )
    text = metadata.get("tensors", "")
    if metadata.get("crc32") != str(checksum([text])):
        raise ValueError("the list of tensors does not match its checksum; the file is damaged")
    try:
        entries = parse_json(text)
    except ValueError as error:
        raise ValueError(f"the list of tensors is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError("the list of tensors is not a mapping from names")
    contents: dict[str, Entry | str] = {}
    for name, fields in entries.items():
        contents[name] = _entry(name, fields, contents)
    return contents


def validate_lengths(contents: Mapping[str, Entry | str], found: Mapping[str, int]) -> None:
    """Check that a file holds exactly the parts that its metadata list, in the listed lengths.

    Args:
        contents: name -> how the tensor is stored.
        found: part -> its bytes in the file.

    Raises:
        ValueError: a part is missing, has another length, or is not listed.
    """
    expected = {}
    for name, entry in _entries(contents):
        for part, codec in entry.parts.items():
            key, length = f"{part}:{name}", entry.length(part)
            expected[key] = length
            if key not in found:
                raise ValueError(f"tensor {name!r}: its part {part!r} is missing")
            if codec == ZSTD and found[key] * _MAX_EXPANSION < length:
                raise ValueError(
                    f"tensor {name!r}: its part {part!r} has {found[key]} bytes, which cannot hold {length} compressed"
                )
            if found[key] >= length if codec == ZSTD else found[key] != length:
                raise ValueError(
                    f"tensor {name!r}: its part {part!r} has {found[key]} bytes; "
                    f"expected {'fewer than ' if codec == ZSTD else ''}{length} for {_description(entry)}"
                )
    if foreign := sorted(set(found) - set(expected)):
        raise ValueError(f"{foreign[0]!r} belongs to no tensor of the file")


def check_limit(limit: int | None, contents: Mapping[str, Entry | str]) -> None:
    """Check that the tensors take at most ``limit`` bytes together.

    Raises:
        ValueError: they take more; the message names the first tensor that exceeds the limit.
    """
    if limit is None:
        return
    limit = check_count("limit", limit)
    total = 0
    for name, entry in _entries(contents):
        total += entry.nbytes
        if total > limit:
            raise ValueError(
                f"tensor {name!r}: {list(entry.shape)} {entry.dtype} exceeds limit={limit} bytes of all tensors; if "
                "you trust the file, give a larger limit"
            )


def _entry(name: str, fields: Any, earlier: Mapping[str, Entry | str]) -> Entry | str:
    if isinstance(fields, str):
        if not isinstance(earlier.get(fields), Entry):
            raise ValueError(f"tensor {name!r} is tied to {fields!r}, which is not a tensor listed before it")
        return fields
    try:
        entry = Entry(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"tensor {name!r}: {error}") from error
    return entry


def _entries(contents: Mapping[str, Entry | str]) -> list[tuple[str, Entry]]:
    return [(name, entry) for name, entry in contents.items() if isinstance(entry, Entry)]


def _description(entry: Entry) -> str:
    kept = "" if entry.count is None else f", {entry.count} kept"
    return f"shape {list(entry.shape)} {entry.dtype}{kept}"


def _is_size(value: Any) -> TypeGuard[int]:
    return is_whole(value, 0, _MAX_ENTRIES)
