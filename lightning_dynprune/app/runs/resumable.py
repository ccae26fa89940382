"""The check that a checkpoint has every entry that a training is continued from; Lightning overlooks some that lack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_dynprune.app.runs.resume import ResumeError
from lightning_dynprune.base import read_checkpoint

_ENTRIES = ("epoch", "global_step", "pytorch-lightning_version", "state_dict", "optimizer_states", "lr_schedulers")


def validate_resumable(path: Path, loops: Mapping[str, Any], callbacks: Iterable[str], data: str) -> None:
    """Raise where an entry is missing in a checkpoint from which a training is to be continued.

    Args:
        path: the checkpoint.
        loops: state of the fit loop of the new Trainer, whose keys the checkpoint has to have.
        callbacks: keys of the states of the callbacks.
        data: key of the state of the data module.

    Raises:
        ResumeError: naming the entry.
        ValueError: the file is not safe to load.
    """
    content = read_checkpoint(path)
    expected = {
        **dict.fromkeys((*_ENTRIES, data)),
        "callbacks": dict.fromkeys(callbacks),
        "loops": {"fit_loop": loops},
    }
    if missing := _first_missing(expected, content):
        raise ResumeError(f"resume={path}: the checkpoint is damaged: {missing!r} is missing; resume from an older one")


def _first_missing(expected: Mapping[str, Any], found: Any) -> str | None:
    """Return the path of the first key that is missing; None if none is."""
    for key, inside in expected.items():
        if not isinstance(found, Mapping) or key not in found:
            return key
        if isinstance(inside, Mapping) and (missing := _first_missing(inside, found[key])):
            return f"{key}/{missing}"
    return None
