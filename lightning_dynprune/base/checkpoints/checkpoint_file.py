"""The reader of checkpoints, which neither runs code from the file nor allocates more than twice its size."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from lightning_dynprune.base.checkpoints.checkpoint_pickle import validate_pickle
from lightning_dynprune.base.checkpoints.compat import FORMAT_FILES, PICKLE_FILE, STORAGE_FOLDER
from lightning_dynprune.base.zip_archive import open_archive

_ALLOWANCE = 2**26 - 2**24  # bytes beyond twice the file, less what reading the archive itself takes


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, with tensors on the CPU; no code from the file runs.

    torch's reader is restricted to tensors and plain values, but by accepted names, by tensors that share or repeat
    their values and by other forms of file a few bytes can allocate any amount of memory. So the archive and its pickle
    are checked first, see :func:`validate_checkpoint`.

    Args:
        path: the file.

    Raises:
        ValueError: the file is damaged, is no archive of torch, or holds other values than tensors and plain ones.
        OSError: the file cannot be read.
    """
    try:
        validate_checkpoint(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(_first_line(error)) from None
    # On a damaged archive Python's and torch's readers raise almost any exception.
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"it is damaged ({kind}{_first_line(error)})") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a mapping of the parts of a checkpoint")
    return content


def validate_checkpoint(path: Path) -> None:
    """Raise unless a file is an archive of torch that takes at most twice its size plus 64 MB to load.

    Its records have the names that torch gives them, each once, are stored as they are, and are together no larger than
    the file; its pickle makes only plain values and tensors whose entries are all stored.

    Args:
        path: the file.

    Raises:
        ValueError: the file is not such an archive.
        zipfile.BadZipFile: it is no archive that every reader reads the same.
    """
    size = path.stat().st_size
    with open_archive(path) as archive:
        records = _named(archive.infolist())
        for entry in records.values():
            stored_as_is = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
            if not stored_as_is or entry.file_size > size:
                raise ValueError(f"its entry {entry.filename[:100]!r} is compressed, or larger than the file")
        total = sum(entry.file_size for entry in records.values())
        if total > size:
            raise ValueError("its entries are larger together than the file")
        if PICKLE_FILE not in records:
            raise ValueError(f"it has no entry {PICKLE_FILE}")
        text = archive.read(records[PICKLE_FILE])
    storages = {
        name.removeprefix(STORAGE_FOLDER): entry.file_size
        for name, entry in records.items()
        if name.startswith(STORAGE_FOLDER)
    }
    validate_pickle(text, storages, size, 2 * size - sum(storages.values()) - 2 * len(text) + _ALLOWANCE)


def _named(entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Return the records of an archive of torch by their names in its folder.

    torch finds a record by its name in any spelling, so each name has to be spelt as torch writes it.
    """
    folder = entries[0].filename.partition("/")[0] if entries else ""
    records: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename.removeprefix(f"{folder}/")
        is_storage = name.startswith(STORAGE_FOLDER) and name.removeprefix(STORAGE_FOLDER).isdecimal()
        is_known = name.isascii() and (is_storage or name in (PICKLE_FILE, *FORMAT_FILES))
        if not is_known or name in records or entry.orig_filename != f"{folder}/{name}":
            raise ValueError(f"its entry {entry.filename[:100]!r} is none that a checkpoint has, or is there twice")
        records[name] = entry
    return records


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:200]
