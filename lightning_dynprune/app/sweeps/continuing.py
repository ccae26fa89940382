"""The command line of a sweep that continues a stopped one, by ``sweep.resume=PATH`` or by the same command."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from lightning_dynprune import __version__
from lightning_dynprune.app.arguments import CONFIG_DIR_FLAGS, split_flags
from lightning_dynprune.app.runs import ResumeError, quote_path, safe_overrides
from lightning_dynprune.app.sweeps.jobs import read_jobs
from lightning_dynprune.app.sweeps.sweep_record import NAME, SweepRecord
from lightning_dynprune.base import printable

RESUME = "sweep.resume="
_MULTIRUN = ("-m", "--multirun")
_DEFAULT_FOLDERS = "multirun/*/*"


def continue_sweep(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a sweep, completed by the folder of the stopped sweep that it continues.

    ``sweep.resume=PATH`` is replaced by the overrides recorded in ``PATH/sweep.json``; as with ``resume``, no
    configuration file in that folder is read. A sweep without ``hydra.sweep.dir`` continues the newest unfinished one
    in ``multirun/`` that the same command began.

    Args:
        arguments: the command line without the program's name.

    Raises:
        ResumeError: there is no sweep at the path, or its record is damaged or holds unsafe overrides.
    """
    paths = [argument.removeprefix(RESUME).strip("'\"") for argument in arguments if argument.startswith(RESUME)]
    if paths:
        return _resumed(Path(paths[-1]), [argument for argument in arguments if not argument.startswith(RESUME)])
    if not set(_MULTIRUN) & set(arguments) or any(argument.startswith("hydra.sweep.dir=") for argument in arguments):
        return list(arguments)
    found = [folder for folder in Path().glob(_DEFAULT_FOLDERS) if _is_unfinished(folder, arguments)]
    if not found:
        return list(arguments)
    folder = max(found)
    print(f"Continuing the unfinished sweep in {printable(str(folder))}", file=sys.stderr)
    return [*arguments, f"hydra.sweep.dir={quote_path(folder)}"]


def _resumed(folder: Path, given: list[str]) -> list[str]:
    if not (folder / NAME).is_file():
        raise ResumeError(f"{RESUME}{folder}: there is no {NAME}; give the folder of a sweep")
    try:
        record = SweepRecord.read(folder)
    except ValueError as error:
        raise ResumeError(f"{RESUME}{folder}: {error}") from None
    if record.config_dirs and not any(argument.startswith(CONFIG_DIR_FLAGS) for argument in given):
        flags = [part for config_dir in record.config_dirs for part in ("--config-dir", config_dir)]
        raise ResumeError(
            f"this sweep used settings from {', '.join(record.config_dirs)}. Files are not taken from a path that a "
            f"record names; if you trust that folder, give it again: "
            f"{shlex.join(['dynprune', *flags, f'{RESUME}{folder}'])}"
        )
    multirun = [] if set(_MULTIRUN) & set(given) else ["-m"]
    flags, others = split_flags(given)
    overrides = [text for text in safe_overrides(record.overrides, given) if text not in given]
    return [*multirun, *flags, *overrides, *others, f"hydra.sweep.dir={quote_path(folder)}"]


def _is_unfinished(folder: Path, arguments: Sequence[str]) -> bool:
    """Return whether the folder holds a sweep of the same command and version with jobs that are not done."""
    try:
        record = SweepRecord.read(folder) if (folder / NAME).is_file() else None
    except (ValueError, OSError):
        return False
    if record is None or record.version != __version__ or record.jobs is None:
        return False
    flags, overrides = split_flags(arguments)
    config_dirs = [os.path.abspath(value) for flag, value in pairwise(flags) if flag in CONFIG_DIR_FLAGS]
    typed = [override for override in overrides if not override.startswith(("hydra.", "hydra/"))]
    is_same = typed == record.overrides and config_dirs == record.config_dirs
    return is_same and any(row.is_left for row in read_jobs(folder, ended=False))
