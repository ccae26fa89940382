"""The check of the output folder, made before Hydra writes to it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from lightning_dynprune.app.runs import FolderInUse, RunFolder, lock_run_folder


class OutputFolderCheck(Callback):
    """Hydra callback that ends the program with a message if the output folder cannot be used."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a single run before Hydra overwrites the settings of another run in it."""
        folder = Path(config.hydra.run.dir)
        check_writable(folder, "hydra.run.dir")
        if config.get("task") is None:
            run = RunFolder(folder, [], {}, resuming=config.resume is not None)
            try:
                with lock_run_folder(folder):
                    run.check_unoccupied()
            except (FolderInUse, FileExistsError) as error:
                raise SystemExit(f"dynprune: {error}") from None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a sweep."""
        check_writable(Path(config.hydra.sweep.dir), "hydra.sweep.dir")


def check_writable(folder: Path, setting: str) -> None:
    """Raise if the folder cannot be created or no file can be written to it.

    Args:
        folder: the output folder.
        setting: name of the setting that gives the folder.

    Raises:
        SystemExit: the folder cannot be created or written. Not an ``Exception``, since Hydra turns those of a callback
            into warnings.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SystemExit(
            f"dynprune: the output folder {folder} cannot be written ({error.strerror}); "
            f"give a writable one: {setting}=FOLDER"
        ) from None
