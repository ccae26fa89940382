"""Filters for messages of Lightning that do not apply to this program."""

from __future__ import annotations

import logging
import warnings

IGNORED_WARNINGS = (
    "does not have many workers",
    "smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    "Experiment logs directory .* exists and is not empty",
)


def silence_lightning() -> None:
    """Hide Lightning's log messages below WARNING, and its warnings about loaders and folders that are intended."""
    import lightning.pytorch  # noqa: F401 - the import sets the levels of the loggers, which are changed below

    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", f".*{pattern}.*")
