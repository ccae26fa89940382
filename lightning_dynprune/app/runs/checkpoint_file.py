"""The reader of checkpoints, which neither runs code from the file nor allocates more than its size."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch

from lightning_dynprune.app.compat import PICKLE_FILE, TENSOR_NAMES


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, with tensors on the CPU; no code from the file runs.

    torch's reader is restricted to tensors and plain values, but accepts names by which a few bytes can allocate any
    amount of memory. So the archive is checked first: its entries must be stored uncompressed and together be no larger
    than the file, and its pickle may name only the functions that rebuild tensors.

    Args:
        path: the file.

    Raises:
        ValueError: the file is damaged, is no archive of torch, or holds other values than tensors and plain ones.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    try:
        _validate_archive(path, size)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(_first_line(error)) from None
    # On a damaged pickle torch's reader raises almost any exception.
    except Exception as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {_first_line(error)})") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a mapping of the parts of a checkpoint")
    return content


def _validate_archive(path: Path, size: int) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or max(entry.file_size, entry.compress_size) > size:
                raise ValueError(f"its entry {entry.filename[:100]!r} is compressed, or larger than the file")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries are larger together than the file")
        for entry in entries:
            if entry.filename.endswith(PICKLE_FILE):
                named = (arg for code, arg, _ in pickletools.genops(archive.read(entry)) if code.name == "GLOBAL")
                if foreign := [name for name in named if name not in TENSOR_NAMES]:
                    raise ValueError(f"it names {str(foreign[0])[:100]!r}, which is neither a tensor nor a plain value")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:200]
