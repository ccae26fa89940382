"""The lock of a run's folder, which keeps a second run from writing to it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_dynprune.app.runs.folder_links import check_no_links
from lightning_dynprune.base import remove_temporary_files

NAME = ".lock"
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # the variables by which launchers number the processes of one run


class FolderInUse(RuntimeError):
    """Another run writes to the folder."""


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Lock a run's folder, and remove the temporary files of killed runs from it.

    The operating system releases the lock when the process ends, also if it is killed. Of several processes of one run,
    the first holds the lock. On a file system without locks a warning is given and nothing is locked.

    Args:
        folder: the run's folder; it must exist.

    Raises:
        FolderInUse: another run holds the lock.
        FileExistsError: the run would write through a symbolic link in the folder.
    """
    check_no_links(folder)
    if any(os.environ.get(name, "0") != "0" for name in _RANKS):
        yield
        return
    file = folder / NAME
    lock = FileLock(file, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUse(
            f"{folder}: another run writes to this folder at this moment (process {_holder(file)}); "
            "wait until it has ended, or give another folder by hydra.run.dir"
        ) from None
    except OSError as error:
        warnings.warn(f"{str(folder)!r} cannot be locked ({error.strerror}); let no two runs write to it", stacklevel=3)
        yield
        return
    try:
        # Windows denies other handles the locked file, so that the message there lacks the process.
        with suppress(OSError):
            file.write_text(f"{os.getpid()}\n", encoding="utf-8")
        remove_temporary_files(folder)
        yield
    finally:
        lock.release()


@contextmanager
def lock_sweep_folder(folder: Path) -> Iterator[None]:
    """Lock a sweep's folder inside the ``with`` block, so that no second sweep runs in it.

    Args:
        folder: the sweep's folder; it must exist.

    Raises:
        FolderInUse: another sweep holds the lock.
    """
    lock = FileLock(folder / NAME, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise FolderInUse(
            f"{folder}: another sweep runs in this folder at this moment; wait until it has ended, or give another "
            "folder by hydra.sweep.dir"
        ) from None
    except OSError as error:
        warnings.warn(f"{str(folder)!r} cannot be locked ({error.strerror}); let no two sweeps run in it", stacklevel=3)
        yield
        return
    try:
        yield
    finally:
        lock.release()


def check_not_in_use(folder: Path) -> None:
    """Raise if a run writes to the folder at this moment; nothing is created in it.

    Raises:
        FolderInUse: another run holds the lock.
        FileExistsError: a run would write through a symbolic link in the folder.
    """
    check_no_links(folder)
    if (folder / NAME).exists():
        with lock_run_folder(folder):
            pass


@contextmanager
def wait_for_lock(file: Path) -> Iterator[None]:
    """Hold a lock inside the ``with`` block, and wait for it as long as another process does.

    On a file system without locks a warning is given and nothing is locked.

    Args:
        file: the lock's file, in a folder that exists.
    """
    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        warnings.warn(
            f"{str(file.parent)!r} cannot be locked ({error.strerror}); jobs may do the same twice", stacklevel=3
        )
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _holder(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip() or "unknown"
    except OSError:
        return "unknown"
