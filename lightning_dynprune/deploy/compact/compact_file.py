"""Write and read compact files: one bit a connection plus the values of the kept ones; reading needs no model.

A compact file is a safetensors file. Its metadata state for each tensor its dtype, its shape and how it is stored:
whole, or as a bit mask and the kept values. Zeros are left out; where one of them is -0.0, a second bit mask holds the
signs, so that every value is restored bit for bit. With ``zstd`` the bit masks and the byte planes of the values are
compressed separately.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lightning_dynprune.base import checksum, integer_view, parse_json, write_atomically
from lightning_dynprune.deploy.compact.byte_planes import compress, decompress
from lightning_dynprune.deploy.compact.contents import (
    DTYPES,
    KEPT,
    PLAIN,
    SIGNS,
    VALUES,
    WHOLE,
    ZSTD,
    Entry,
    check_limit,
    from_metadata,
    to_metadata,
    validate_lengths,
)
from lightning_dynprune.deploy.compact.signed_zeros import real_numbers, set_signs, split_zeros
from lightning_dynprune.deploy.compact.tensor_file import is_header_bounded, open_tensors, write_tensors
from lightning_dynprune.masks import CHUNK_SIZE, pack_bits, unpack_bits

LIMIT = 2**30  # bytes that the tensors of a file may take unless another limit is given
_PART_COST = 80  # bytes of a part's entry in the file's header


def save_compact(model_or_state_dict: nn.Module | Mapping[str, Tensor], path: str | Path, *, zstd: bool = False) -> int:
    """Write weights losslessly, with one bit for each pruned connection, and return the file's size in bytes.

    A tensor is stored sparsely only where that is smaller. Memory that appears under several names is written once.

    Args:
        model_or_state_dict: a model, whose state dict is written, or a state dict.
        path: the file; an existing one is replaced atomically.
        zstd: also compress; needs the package zstandard for writing and for reading.

    Raises:
        TypeError: an entry is not a dense tensor or has an unsupported dtype; the message names it.
        ImportError: ``zstd`` is set and the package zstandard is not installed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "compact.safetensors"
        >>> weight = torch.zeros(1000).index_fill(0, torch.tensor([3, 5]), -1.5)
        >>> save_compact({"weight": weight}, path) < 1000
        True
        >>> torch.equal(load_compact(path)["weight"], weight)
        True
    """
    weights = model_or_state_dict.state_dict() if isinstance(model_or_state_dict, nn.Module) else model_or_state_dict
    contents: dict[str, Entry | str] = {}
    stored: dict[str, Tensor] = {}
    owners: dict[tuple[object, ...], str] = {}
    for name, tensor in weights.items():
        _check_writable(name, tensor)
        memory = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj())
        owner = owners.setdefault(memory, name) if tensor.numel() else name
        if owner != name:
            contents[name] = owner
            continue
        flat = tensor.detach().resolve_conj().resolve_neg().cpu().reshape(-1)
        parts, count = _choose_storage(flat, zstd)
        contents[name] = Entry(
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            parts={part: codec for part, (_, codec) in parts.items()},
            crc32=checksum(data for data, _ in parts.values()),
            count=count,
        )
        stored |= {f"{part}:{name}": data for part, (data, _) in parts.items()}
    path = Path(path)
    write_atomically(
        path, lambda scratch: write_tensors(_without_shared_memory(stored), scratch, to_metadata(contents))
    )
    return path.stat().st_size


def load_compact(path: str | Path, *, limit: int | None = LIMIT) -> dict[str, Tensor]:
    """Return the state dict that :func:`save_compact` wrote, on the CPU.

    The metadata are compared with the file's contents before any tensor is allocated, so damaged files are rejected and
    a file takes no more memory than its metadata announce. A layer of zeros is tiny on disk whatever its size in
    memory, so that only ``limit`` bounds what an untrusted file unfolds into. Reading takes at most twice the larger of
    the file and its tensors, plus 64 MB.

    Args:
        path: the file.
        limit: maximum number of bytes of all tensors together, by default 1 GiB; None sets no maximum.

    Returns:
        Name -> tensor, in the order in which they were written; tied names share one tensor again.

    Raises:
        ValueError: the file is damaged, of another kind or version, or exceeds ``limit``; the message names the tensor
            where one is at fault.
        ImportError: the file is compressed and the package zstandard is not installed.
    """
    path = Path(path)
    weights: dict[str, Tensor] = {}
    try:
        with open_tensors(path) as file:
            contents = from_metadata(file.metadata() or {})
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            if odd := [key for key, part in slices.items() if part.get_dtype() != "U8" or len(part.get_shape()) != 1]:
                raise ValueError(f"{odd[0]!r} is not a flat sequence of bytes")
            validate_lengths(contents, {key: part.get_shape()[0] for key, part in slices.items()})
            check_limit(limit, contents)
            for name, entry in contents.items():
                if isinstance(entry, str):
                    weights[name] = weights[entry]
                else:
                    weights[name] = _decode(name, entry, [file.get_tensor(f"{part}:{name}") for part in entry.parts])
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file{_truncation_note(path)}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return weights


def write_dense(weights: Mapping[str, Tensor], path: Path, about: Mapping[str, str] | None = None) -> int:
    """Write a state dict as a safetensors file, tied tensors under each of their names; return its size in bytes.

    The file's metadata are ``format: pt``, which other libraries look for, and those of ``about``.

    Args:
        weights: the state dict.
        path: the file.
        about: texts for the metadata.
    """
    metadata = {"format": "pt", **(about or {})}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, lambda scratch: write_tensors(_without_shared_memory(whole), scratch, metadata))
    return path.stat().st_size


def _without_shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with copies in place of those that share memory, because safetensors rejects shared memory."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return separate


def _check_writable(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: a {type(tensor).__name__} cannot be written; a compact file holds only tensors")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise TypeError(
            f"{name}: a tensor of {tensor.layout} on {tensor.device} cannot be written; give a dense tensor"
        )
    if tensor.dtype not in DTYPES.values():
        raise TypeError(f"{name}: dtype {tensor.dtype} cannot be written; accepted: {', '.join(DTYPES)}")


def _choose_storage(flat: Tensor, zstd: bool) -> tuple[dict[str, tuple[Tensor, str]], int | None]:
    """Return the smaller storage of a tensor: part -> (bytes, codec), and the number of kept entries (None: whole)."""
    entries = integer_view(flat)
    whole = {WHOLE: _encode(entries, zstd)}
    kept, signed = split_zeros(flat)
    count = int(kept.sum())
    if count == entries.numel():
        return whole, None
    packed = {KEPT: _encode(pack_bits(kept), zstd), VALUES: _encode(entries[kept], zstd)}
    if signed is not None:
        packed[SIGNS] = _encode(pack_bits(signed), zstd)
    return (packed, count) if _cost(packed) < _cost(whole) else (whole, None)


def _cost(parts: Mapping[str, tuple[Tensor, str]]) -> int:
    return sum(data.numel() + _PART_COST for data, _ in parts.values())


def _encode(entries: Tensor, zstd: bool) -> tuple[Tensor, str]:
    """Return a part's bytes and its codec; compressed only if ``zstd`` is set and that makes it smaller."""
    data = entries.contiguous().view(torch.uint8)
    if zstd and (frame := compress(data, entries.element_size())).numel() < data.numel():
        return frame, ZSTD
    return data, PLAIN


def _decode(name: str, entry: Entry, parts: Iterable[Tensor]) -> Tensor:
    """Return the tensor that an entry describes, from the stored bytes of its parts."""
    parts = list(parts)
    if checksum(parts) != entry.crc32:
        raise ValueError(f"tensor {name!r} does not match its checksum; the file is damaged")
    try:
        raw = {
            part: decompress(data, entry.length(part), entry.width(part)) if codec == ZSTD else data.clone()
            for (part, codec), data in zip(entry.parts.items(), parts, strict=True)
        }
    except ValueError as error:
        raise ValueError(f"tensor {name!r}: {error}") from error
    dtype = DTYPES[entry.dtype]
    flat = raw[WHOLE] if entry.count is None else _spread(name, entry, raw)
    if dtype == torch.bool and bool((flat.view(torch.uint8) > 1).any()):
        raise ValueError(f"tensor {name!r}: a bool is neither 0 nor 1; the file is damaged")
    return flat.view(dtype).reshape(entry.shape)


def _spread(name: str, entry: Entry, raw: Mapping[str, Tensor]) -> Tensor:
    """Return the flat tensor of an entry that is stored as bits and values, chunk by chunk: bits unfold eightfold."""
    flat = torch.zeros(entry.numel, dtype=DTYPES[entry.dtype])
    values = (
        integer_view(flat[:0]).new_empty(0) if not raw[VALUES].numel() else raw[VALUES].view(integer_view(flat).dtype)
    )
    found, count, numbers = 0, entry.count or 0, real_numbers(flat.dtype)
    for start in range(0, entry.numel, CHUNK_SIZE):
        part = flat[start : start + CHUNK_SIZE]
        kept = unpack_bits(raw[KEPT][start // 8 : (start + CHUNK_SIZE) // 8], part.numel(), name)
        bits = int(kept.sum())
        if found + bits <= count:
            integer_view(part)[kept] = values[found : found + bits]
        found += bits
        if SIGNS in raw:
            window = slice(start * numbers // 8, (start + CHUNK_SIZE) * numbers // 8)
            try:
                set_signs(part, unpack_bits(raw[SIGNS][window], part.numel() * numbers, name))
            except ValueError as error:
                raise ValueError(f"tensor {name!r}: {error}") from error
    if found != count:
        raise ValueError(f"tensor {name!r}: {found} entries are kept by its bits, {count} by its count")
    return flat


def _truncation_note(path: Path) -> str:
    """Return a message part that names the first incomplete tensor of a truncated file; empty if none is found."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if start > size or not is_header_bounded(path):
            return ""
        try:
            header = parse_json(file.read(start - 8))
            ends = {key: start + part["data_offsets"][1] for key, part in header.items() if key != "__metadata__"}
            cut = [key.partition(":")[2] for key, end in sorted(ends.items(), key=lambda e: e[1]) if end > size]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return ""
    return f"; it ends before tensor {cut[0]!r} does" if cut else ""
