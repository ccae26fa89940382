"""What the program adds to a Trainer besides the pruning itself.

May import every room and Lightning.
"""

from lightning_dynprune.app.callbacks.checkpoint import LastCheckpoint
from lightning_dynprune.app.callbacks.history import History

__all__ = ["History", "LastCheckpoint"]
