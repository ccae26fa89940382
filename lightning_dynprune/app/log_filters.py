"""Lightning's remarks that say nothing about this program, silenced."""

from __future__ import annotations

import logging
import warnings

NOISE = (
    "does not have many workers",
    "smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    "Experiment logs directory .* exists and is not empty",
)


def silence_lightning() -> None:
    """Drop Lightning's information lines, and its warnings about loaders and loggers that are as they are meant."""
    import lightning.pytorch  # noqa: F401 - it sets the levels of its loggers, so that this has to follow

    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in NOISE:
        warnings.filterwarnings("ignore", f".*{pattern}.*")
