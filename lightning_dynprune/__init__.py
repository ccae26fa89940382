"""Dynamic pruning for PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

from lightning_dynprune.engine import AccuracyGuard, Pruner
from lightning_dynprune.journal import Journal, Update

if TYPE_CHECKING:
    from lightning_dynprune.callback import DynamicPruning

__all__ = ["AccuracyGuard", "DynamicPruning", "Journal", "Pruner", "Update", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The engine works without Lightning, whose import takes seconds, so the callback is imported on first use.
    if name == "DynamicPruning":
        from lightning_dynprune.callback import DynamicPruning

        return DynamicPruning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
