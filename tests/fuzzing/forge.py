"""Files as an attacker builds them: from the format, with any part of it as he likes."""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DIRECTORY_ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL_HEADER = struct.Struct("<4s5H3L2H")
END = struct.Struct("<4s4H2LH")


@dataclass
class Record:
    """A record of a zip archive; what is None is as it should be.

    Args:
        name: in the directory.
        data: as stored.
        local_name: before the data.
        method: 0 stored, 8 deflated.
        claimed: bytes after unpacking, as the directory says.
        crc: checksum that both places give.
        offset: place of the local header, as the directory says.
    """

    name: str
    data: bytes = b""
    local_name: str | None = None
    method: int = 0
    claimed: int | None = None
    crc: int | None = None
    offset: int | None = None


def archive(
    records: Sequence[Record],
    before: bytes = b"",
    comment: bytes = b"",
    after: bytes = b"",
    shift: int = 0,
    count: int | None = None,
) -> bytes:
    """Return a zip archive.

    Args:
        records: its records.
        before: bytes in front of it.
        comment: of the archive.
        after: bytes behind it.
        shift: added to the place of the directory that its end gives.
        count: number of records that its end gives.
    """
    body, directory = bytearray(before), bytearray()
    for record in records:
        crc = zlib.crc32(record.data) if record.crc is None else record.crc
        claimed = len(record.data) if record.claimed is None else record.claimed
        place = len(body) if record.offset is None else record.offset
        local = (record.name if record.local_name is None else record.local_name).encode()
        name = record.name.encode()
        sizes = (crc, len(record.data), claimed & 0xFFFFFFFF)
        body += LOCAL_HEADER.pack(b"PK\3\4", 20, 0, record.method, 0, 0, *sizes, len(local), 0) + local + record.data
        directory += DIRECTORY_ENTRY.pack(
            b"PK\1\2", 20, 20, 0, record.method, 0, 0, *sizes, len(name), 0, 0, 0, 0, 0, place & 0xFFFFFFFF
        )
        directory += name
    number = (len(records) if count is None else count) & 0xFFFF
    start = (len(body) + shift) & 0xFFFFFFFF
    end = END.pack(b"PK\5\6", 0, 0, number, number, len(directory), start, len(comment))
    return bytes(body + directory + end + comment + after)


def checkpoint(
    pickled: bytes, storages: Mapping[str, bytes] | None = None, extra: Sequence[Record] = (), **end: Any
) -> bytes:
    """Return a checkpoint of a pickle and the storages it names; further records stand first."""
    records = [
        *extra,
        Record("a/data.pkl", pickled),
        Record("a/byteorder", b"little"),
        *(Record(f"a/data/{key}", data) for key, data in (storages or {}).items()),
        Record("a/version", b"3\n"),
    ]
    return archive(records, **end)


def text(value: str) -> bytes:
    """Return the instruction for a text."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def whole(value: int) -> bytes:
    """Return the instruction for a whole number."""
    if 0 <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def storage(kind: str, key: str, numel: int) -> bytes:
    """Return the instructions for a storage."""
    return b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(key) + text("cpu") + whole(numel) + b"tQ"


def tensor(stored: bytes, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> bytes:
    """Return the instructions for a tensor."""
    sizes = b"(" + b"".join(map(whole, shape)) + b"t(" + b"".join(map(whole, strides)) + b"t"
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + whole(offset) + sizes + hooks + b"tR"


def mapping(**entries: bytes) -> bytes:
    """Return the instructions for a mapping."""
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def run(more: bytes = b"N", state: bytes = b"}", overrides: Sequence[str] = (), config: str = "{}") -> bytes:
    """Return the pickle of a checkpoint of the program with one more entry and a state dict."""
    listed = b"](" + b"".join(map(text, overrides)) + b"e"
    last = mapping(overrides=listed, config_dirs=b"]", config=text(config))
    return b"\x80\2" + mapping(more=more, callbacks=mapping(LastCheckpoint=last), state_dict=state) + b"."


def legacy(pickled: bytes, keys: bytes = b"](e") -> bytes:
    """Return a checkpoint in the form that torch wrote before archives."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    return magic + pickle.dumps(1001, protocol=2) + pickle.dumps(system, protocol=2) + pickled + b"\x80\2" + keys + b"."


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file.

    Args:
        header: its JSON, or the text of it.
        data: the tensors.
        length: of the header, as the file says.
    """
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(packed) if length is None else length) + packed + data


def compact(entries: Any, parts: Mapping[str, bytes], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a compact file with right checksums: entries of its list, and the bytes of their parts."""
    if isinstance(entries, dict):
        for name, entry in entries.items():
            if isinstance(entry, dict) and isinstance(entry.get("parts"), dict):
                total = 0
                for part in entry["parts"]:
                    total = zlib.crc32(parts.get(f"{part}:{name}", b""), total)
                entry.setdefault("crc32", total)
    listed = entries if isinstance(entries, str) else json.dumps(entries)
    head = {"format": "lightning_dynprune.compact", "version": "2", "tensors": listed}
    head["crc32"] = str(zlib.crc32(listed.encode()))
    header: dict[str, Any] = {"__metadata__": {**head, **(metadata or {})}}
    place = 0
    for name, data in parts.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [place, place + len(data)]}
        place += len(data)
    return safetensors(header, b"".join(parts.values()))
