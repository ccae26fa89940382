"""The reader of MNIST's idx files, gzipped and checked by MD5."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

UNSIGNED_BYTE = 8
# The largest file of the sets takes 47,040,016 bytes unzipped.
LARGEST = 50_000_000
MOST_AXES = 8


def read_idx(path: Path, md5: str) -> npt.NDArray[np.uint8]:
    """Return the array of a gzipped idx file of unsigned bytes after checking its MD5.

    The checksum is of the unzipped content, since archives of one file differ with the tool that made them.

    Args:
        path: the ``.gz`` file.
        md5: MD5 of the unzipped bytes, hexadecimal.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged; the message gives its path, the expected checksum and a remedy.

    Source: http://yann.lecun.com/exdb/mnist, "the IDX file format".
    """
    remedy = "delete it and copy it again, or unset data_dir and DYNPRUNE_DATA to have it downloaded"
    try:
        with gzip.open(path) as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing (unzipped MD5 {md5}); copy it there, point data_dir or DYNPRUNE_DATA at the folder "
            "that holds it, or unset both to have it downloaded"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}; expected unzipped MD5 {md5}); {remedy}") from error
    if len(content) > LARGEST:
        raise ValueError(f"{path} holds more than {LARGEST} bytes (expected unzipped MD5 {md5}); {remedy}")
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"{path} is corrupt: unzipped MD5 {found}, expected {md5}; {remedy}")
    return parse_idx(content)


def parse_idx(content: bytes) -> npt.NDArray[np.uint8]:
    """Return the array of an idx file given as bytes.

    Raises:
        ValueError: the values are no unsigned bytes, or their number does not match the shape.

    Example:
        >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9])).tolist()
        [7, 8, 9]
    """
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise ValueError(f"not an idx file of unsigned bytes: it starts with {content[:4].hex(' ')}")
    axes = content[3]
    size = len(content) - 4 - 4 * axes
    if axes > MOST_AXES or size < 0:
        raise ValueError(f"an idx file of {axes} axes has {len(content)} bytes; there are at most {MOST_AXES} axes")
    shape = np.frombuffer(content, dtype=">u4", count=axes, offset=4).tolist()
    if size != math.prod(shape):
        raise ValueError(f"an idx file of shape {shape} holds {size} values")
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes)
    return values.reshape(shape)
