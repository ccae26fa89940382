"""The check that a folder from elsewhere leads no writing out of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

# What a run writes through; its other files are replaced as a whole, and a link with them.
_WRITTEN = (".lock", ".hydra", "logs", "exports")
_SWEEP_WRITTEN = ("multirun.yaml", "refused", "dense")


def check_no_links(folder: Path, sweep: Path | None = None) -> None:
    """Raise if a run would write through a symbolic link in its folder, or if its folder in a sweep is one.

    Args:
        folder: the run's folder, which need not exist.
        sweep: the folder of the sweep that it belongs to.

    Raises:
        FileExistsError: naming the link.
    """
    inside = [] if sweep is None else folder.relative_to(sweep).parts
    above = [] if sweep is None else [sweep.joinpath(*inside[: number + 1]) for number in range(len(inside))]
    _check(above)
    _check(folder / name for name in _WRITTEN)
    for place, folders, files in os.walk(folder / "logs"):
        _check(Path(place) / name for name in (*folders, *files))


def check_no_links_of_sweep(folder: Path) -> None:
    """Raise if a sweep would write through a symbolic link in its folder.

    Args:
        folder: the sweep's folder.

    Raises:
        FileExistsError: naming the link.
    """
    _check(folder / name for name in _SWEEP_WRITTEN)
    _check((folder / "dense").glob("*.lock"))


def _check(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_symlink():
            raise FileExistsError(
                f"{path} is a symbolic link, through which files outside this folder would be written; remove the "
                "link, or choose another folder by hydra.run.dir or hydra.sweep.dir"
            )
