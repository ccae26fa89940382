"""Dynamic pruning for PyTorch Lightning."""

from typing import TYPE_CHECKING

from lightning_dynprune.base import lazy_names

if TYPE_CHECKING:
    from lightning_dynprune.callback import Distillation, DynamicPruning, InputAdaptivePruning, PrunedCheckpoint
    from lightning_dynprune.engine import AccuracyGuard, Pruner
    from lightning_dynprune.journal import Journal, Update
else:
    # Importing torch and Lightning takes seconds; the engine works without Lightning, `dynprune --help` without both.
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lightning_dynprune.callback": [
                "Distillation",
                "DynamicPruning",
                "InputAdaptivePruning",
                "PrunedCheckpoint",
            ],
            "lightning_dynprune.engine": ["AccuracyGuard", "Pruner"],
            "lightning_dynprune.journal": ["Journal", "Update"],
        },
    )

__all__ = [
    "AccuracyGuard",
    "Distillation",
    "DynamicPruning",
    "InputAdaptivePruning",
    "Journal",
    "PrunedCheckpoint",
    "Pruner",
    "Update",
    "__version__",
]
__version__ = "0.1.0"
