"""One run a folder: whoever comes second is refused while the first is alive."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_dynprune.base import remove_temporary_files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # how launchers number the processes of one run


class FolderInUse(RuntimeError):
    """Another run writes to the folder."""


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Hold a run's folder; what killed runs left half-written in it is removed.

    The operating system lets go of it when the process ends, however it ends. Of several processes of one run the first
    holds it. Where there are no such locks (Windows, some network drives) nobody is refused.

    Args:
        folder: the run's folder; it must exist.

    Raises:
        FolderInUse: another run holds it.
    """
    if fcntl is None or any(os.environ.get(name, "0") != "0" for name in _RANKS):
        yield
        return
    with (folder / NAME).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise FolderInUse(
                f"{folder}: another run writes to this folder at this moment (process {file.read().strip() or '?'}); "
                "wait until it has ended, or give another folder by hydra.run.dir"
            ) from None
        except OSError as error:
            warnings.warn(f"{folder} cannot be locked ({error.strerror}); let no two runs write to it", stacklevel=3)
        else:
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            remove_temporary_files(folder)
        yield
