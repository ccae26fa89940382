"""Dynamic pruning for PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

from lightning_dynprune.engine import AccuracyGuard, Pruner
from lightning_dynprune.journal import Journal, Update

if TYPE_CHECKING:
    from lightning_dynprune.callback import DynamicPruning, PrunedCheckpoint

__all__ = ["AccuracyGuard", "DynamicPruning", "Journal", "PrunedCheckpoint", "Pruner", "Update", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The engine works without Lightning, whose import takes seconds, so its callbacks are imported on first use.
    if name in ("DynamicPruning", "PrunedCheckpoint"):
        from lightning_dynprune import callback

        return getattr(callback, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
