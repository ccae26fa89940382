"""A checkpoint from outside, read without running or allocating what it asks for."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch

# All that the program's own checkpoints name. torch's reader knows more, by which a few bytes ask for any memory.
_NAMES = frozenset(
    ["collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"]
    + [f"torch {kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "Bool", "Byte", "Char")]
    + [f"torch {kind}Storage" for kind in ("Short", "Int", "Long", "ComplexFloat", "ComplexDouble")]
)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, on the CPU; nothing in it is called.

    torch's own reader is restricted to tensors and plain values. Before it is asked, the file has to be an archive that
    holds its entries as they are, no larger than the file, so that none unfolds into more, and may name nothing but
    what tensors are rebuilt by.

    Args:
        path: the file.

    Raises:
        ValueError: the file is damaged, is no archive of torch's, or asks for more than tensors and plain values.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    try:
        _refuse_unfolding(path, size)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(_first_line(error)) from None
    # The reader takes what it finds on its stack for what it expects, and fails in as many ways.
    except Exception as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {_first_line(error)})") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not the parts of a checkpoint")
    return content


def _refuse_unfolding(path: Path, size: int) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or max(entry.file_size, entry.compress_size) > size:
                raise ValueError(f"its entry {entry.filename[:100]!r} is compressed, or larger than the file")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries are larger together than the file")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                named = (arg for code, arg, _ in pickletools.genops(archive.read(entry)) if code.name == "GLOBAL")
                if foreign := [name for name in named if name not in _NAMES]:
                    raise ValueError(f"it names {str(foreign[0])[:100]!r}, which is neither a tensor nor a plain value")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:200]
