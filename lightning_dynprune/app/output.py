"""The run's folder: refused early where it cannot be written, or holds another run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from lightning_dynprune.app.runs import FolderInUse, RunFolder, lock_run_folder


class OutputFolderCheck(Callback):
    """Hydra callback that ends the program, in words, before Hydra fails on the folder itself."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a single run, before Hydra writes the settings of this one over those of another."""
        folder = Path(config.hydra.run.dir)
        check_writable(folder, "hydra.run.dir")
        if config.get("task") is None:
            run = RunFolder(folder, [], {}, resuming=config.resume is not None)
            try:
                with lock_run_folder(folder):
                    run.check_unoccupied()
            except (FolderInUse, FileExistsError) as refusal:
                raise SystemExit(f"dynprune: {refusal}") from None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a sweep."""
        check_writable(Path(config.hydra.sweep.dir), "hydra.sweep.dir")


def check_writable(folder: Path, setting: str) -> None:
    """Make the folder and a file in it; say which setting to change where that fails.

    Args:
        folder: the folder to write to.
        setting: the setting that names it.

    Raises:
        SystemExit: it cannot be made or written. No ordinary exception: Hydra turns those of a callback into warnings.
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
