"""The check of the output folder, made before Hydra writes to it, and the removal of the folder of a refused run."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from lightning_dynprune.app.refusals import JobFailed
from lightning_dynprune.app.runs import FolderInUse, RunFolder, check_no_links, check_not_in_use
from lightning_dynprune.app.settings_check import check_settings
from lightning_dynprune.base import printable

LOCK = ".lock"


# The folders that Hydra creates for the single run of this process, the innermost first.
_made: list[Path] = []


def remove_unused_folders() -> None:
    """Remove the folders that were created for a run which was refused before it wrote anything."""
    if _made and _made[0].is_dir() and [path.name for path in _made[0].iterdir()] == [LOCK]:
        (_made[0] / LOCK).unlink()
    for path in _made:
        # It raises for a folder that is not empty.
        with suppress(OSError):
            path.rmdir()
    _made.clear()


class OutputFolderCheck(Callback):
    """Hydra callback that ends the program with a message if the output folder or a setting cannot be used."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the settings and the folder of a single run before Hydra creates the folder."""
        folder = Path(config.hydra.run.dir)
        try:
            check_settings(config)
        except (ValueError, TypeError, ImportError) as error:
            raise JobFailed from error
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        check_writable(folder, "hydra.run.dir")
        _made[:] = missing
        if config.get("task") is None and folder.exists():
            run = RunFolder(folder, [], {}, resuming=config.resume is not None)
            try:
                check_no_links(folder)
                # Nothing, not even a lock, is written to the folder of a finished run.
                if not run.results.exists():
                    check_not_in_use(folder)
                run.check_unoccupied()
            except (FolderInUse, FileExistsError) as error:
                raise SystemExit(f"dynprune: {printable(str(error))}") from None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a sweep."""
        check_writable(Path(config.hydra.sweep.dir), "hydra.sweep.dir")


def check_writable(folder: Path, setting: str) -> None:
    """Raise if the folder cannot be created or no file can be written to it; nothing is created.

    Args:
        folder: the output folder.
        setting: name of the setting that gives the folder.

    Raises:
        SystemExit: the folder cannot be created or written. Not an ``Exception``, since Hydra turns those of a callback
            into warnings.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise SystemExit(
            f"dynprune: the output folder {printable(str(folder))} cannot be written ({error.strerror}); "
            f"give a writable one: {setting}=FOLDER"
        ) from None
