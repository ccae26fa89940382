"""``sweep.json``: the command, the version and the jobs of a sweep, by which the same command continues it."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_dynprune import __version__
from lightning_dynprune.app.runs import read_record, validate_overrides
from lightning_dynprune.base import write_json

NAME = "sweep.json"


@dataclass(frozen=True)
class SweepRecord:
    """The identity of a sweep, and its jobs.

    Args:
        overrides: the command's overrides as typed, without those of ``hydra``.
        config_dirs: folders given by ``--config-dir``.
        jobs: overrides of each job in the order of their numbers; None if the sweeper chooses them while it runs.
        version: version of this package.
    """

    overrides: list[str]
    config_dirs: list[str]
    jobs: list[list[str]] | None
    version: str = __version__

    def write(self, folder: Path) -> None:
        """Write the record to a sweep's folder, unless an equal one lies there.

        Raises:
            FileExistsError: the folder holds another sweep; the message names the difference.
            ValueError: the record in the folder is damaged.
        """
        if not (folder / NAME).exists():
            write_json(folder / NAME, asdict(self))
            return
        found = SweepRecord.read(folder)
        if found.version != self.version:
            raise FileExistsError(
                f"the sweep in {folder} was begun with version {found.version} of lightning-dynprune and this is "
                f"{self.version}; continue it with that version, or choose another folder by hydra.sweep.dir"
            )
        if found != self:
            raise FileExistsError(
                f"{folder} holds another sweep: {found.command}; give that command to continue it, or choose another "
                "folder by hydra.sweep.dir"
            )

    @classmethod
    def read(cls, folder: Path) -> SweepRecord:
        """Return the record in a sweep's folder.

        Raises:
            ValueError: the file is damaged.
            OSError: the file cannot be read.
        """
        content = read_record(folder / NAME)
        jobs = content.get("jobs")
        if not (_is_overrides(content.get("overrides")) and _is_overrides(content.get("config_dirs"))):
            raise ValueError(
                f"{folder / NAME} is damaged: it holds no lists of texts, or too many; move it away to start anew"
            )
        if not (jobs is None or (isinstance(jobs, list) and all(map(_is_overrides, jobs)))):
            raise ValueError(f"{folder / NAME} is damaged: jobs is no list of lists; move it away to start anew")
        if not isinstance(content.get("version"), str):
            raise ValueError(f"{folder / NAME} is damaged: version is no text; move it away to start anew")
        return cls(content["overrides"], content["config_dirs"], jobs, content["version"])

    @property
    def command(self) -> str:
        """The shell command that was typed, without its settings of ``hydra``."""
        flags = [part for config_dir in self.config_dirs for part in ("--config-dir", config_dir)]
        return shlex.join(["dynprune", "-m", *flags, *self.overrides])


def _is_overrides(value: Any) -> bool:
    try:
        validate_overrides(value)
    except ValueError:
        return False
    return True
