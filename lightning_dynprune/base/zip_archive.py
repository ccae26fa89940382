"""Zip archives from files that are not trusted, opened only where every reader finds the same records in them."""

from __future__ import annotations

import os
import struct
import zipfile

MAGIC = b"PK\x03\x04"
_END = struct.Struct("<4s4H2LH")  # end of the central directory
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
# Bytes of central directory beyond a share of the file: Python takes about 16 times as much for its records.
_DIRECTORY, _SHARE = 2**21, 16


def open_archive(path: str | os.PathLike[str]) -> zipfile.ZipFile:
    """Return a zip archive for reading, if it fills its whole file and its directory is as large as it says.

    Readers of zip files differ in where they look for the directory, so that one of them would check other records
    than the next one loads: torch takes a file that does not begin with a record for one of its older format. So the
    file has to begin with a record and to end with its directory, without a comment, and all places that tell where
    the directory is have to agree.

    Args:
        path: the file.

    Raises:
        zipfile.BadZipFile: the file is no such archive.
        OSError: the file cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(len(MAGIC))
        tail_size = min(size, _END64.size + _LOCATOR.size + _END.size)
        file.seek(size - tail_size)
        tail = file.read(tail_size)
    if start != MAGIC:
        raise zipfile.BadZipFile("it does not begin with a record of an archive")
    length = _directory_length(tail, size)
    if length > _DIRECTORY + size // _SHARE:
        raise zipfile.BadZipFile(f"its list of records takes {length} of {size} bytes")
    archive = zipfile.ZipFile(path)
    if archive.comment or min((entry.header_offset for entry in archive.infolist()), default=0):
        archive.close()
        raise zipfile.BadZipFile("it has bytes beside its records")
    return archive


def _directory_length(tail: bytes, size: int) -> int:
    """Return the bytes of the central directory, from the last bytes of a file."""
    damaged = zipfile.BadZipFile("it does not end with its list of records")
    if len(tail) < _END.size:
        raise damaged
    magic, *_, length, start, comment = _END.unpack(tail[-_END.size :])
    if magic != b"PK\x05\x06" or comment:
        raise damaged
    locator_end = len(tail) - _END.size
    if len(tail) < _LOCATOR.size + _END.size or tail[locator_end - _LOCATOR.size :][:4] != b"PK\x06\x07":
        if start + length != size - _END.size:
            raise damaged
        return int(length)
    place = _LOCATOR.unpack(tail[locator_end - _LOCATOR.size : locator_end])[2]
    if len(tail) < _END64.size + _LOCATOR.size + _END.size or place != size - len(tail):
        raise damaged
    magic, *_, length64, start64 = _END64.unpack(tail[: _END64.size])
    agree = all(narrow in (wide, 2**32 - 1) for narrow, wide in ((length, length64), (start, start64)))
    if magic != b"PK\x06\x06" or not agree or start64 + length64 != place:
        raise damaged
    return int(length64)
