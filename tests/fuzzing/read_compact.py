"""Compact files: ``load_compact``, with the checksums as they are or made right again."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import torch

from lightning_dynprune.deploy.compact import load_compact, save_compact

ACCEPTED = (ValueError,)
LIMIT = 2**24  # bytes that a file may unfold into


def seeds(folder: Path) -> dict[str, bytes]:
    """Return files as they should be."""
    packed = torch.zeros(40).index_fill(0, torch.tensor([3, 31]), -1.5)
    wide = torch.zeros(400).index_fill(0, torch.arange(0, 400, 7), 0.25)
    sets = {
        "packed": {"a": packed.repeat(20), "b": torch.arange(3.0)},
        "zstd": {"a": wide, "b": wide, "c": torch.ones(2, 0, 3)},
        "signs": {"a": torch.full((900,), -0.0).index_fill(0, torch.tensor([5]), 2.0)},
        "dtypes": {"a": torch.tensor([True, False]), "b": torch.zeros(9, dtype=torch.bfloat16), "c": torch.tensor(7)},
    }
    written = {}
    for name, tensors in sets.items():
        save_compact(tensors, folder / name, zstd=name == "zstd")
        written[name] = (folder / name).read_bytes()
    return written


def read(data: bytes, folder: Path) -> bool:
    """Read the bytes as they are, and again behind the checksums."""
    accepted = False
    for content in (data, _with_right_checksums(data)) if len(data) < 2**16 else (data,):
        path = folder / "compact.safetensors"
        path.write_bytes(content)
        try:
            weights = load_compact(path, limit=LIMIT)
        except ACCEPTED:
            continue
        assert sum({w.data_ptr(): w.numel() * w.element_size() for w in weights.values()}.values()) <= LIMIT
        accepted = True
    return accepted


def _with_right_checksums(data: bytes) -> bytes:
    try:
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        metadata = header["__metadata__"]
        listed = json.loads(metadata["tensors"])
        for name, entry in listed.items():
            if isinstance(entry, dict):
                total = 0
                for part in entry["parts"]:
                    start, stop = header[f"{part}:{name}"]["data_offsets"]
                    total = zlib.crc32(data[8 + length :][start:stop], total)
                entry["crc32"] = total
        metadata["tensors"] = json.dumps(listed)
        metadata["crc32"] = str(zlib.crc32(metadata["tensors"].encode()))
        text = json.dumps(header).encode()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, struct.error):
        return data
    return struct.pack("<Q", len(text)) + text + data[8 + length :]
