"""What the program adds to a Trainer besides the pruning itself."""

from lightning_dynprune.app.callbacks.checkpoint import LastCheckpoint
from lightning_dynprune.app.callbacks.history import History

__all__ = ["History", "LastCheckpoint"]
