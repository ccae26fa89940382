"""A Trainer that is quiet and quick, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ModelCheckpoint


def trainer(callbacks: list[L.Callback], folder: Path, **settings: Any) -> L.Trainer:
    """Return a Trainer on the CPU that prints nothing; it saves checkpoints only where a callback does."""
    defaults: dict[str, Any] = {
        "max_epochs": 4,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return L.Trainer(callbacks=callbacks, **{**defaults, **settings})
