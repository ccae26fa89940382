"""Lightning callbacks of the program besides pruning: the checkpoint for resume, and the curves of a run.

May import runs/ and every room below app/.
"""

from lightning_dynprune.app.callbacks.checkpoint import LastCheckpoint
from lightning_dynprune.app.callbacks.history import History

__all__ = ["History", "LastCheckpoint"]
