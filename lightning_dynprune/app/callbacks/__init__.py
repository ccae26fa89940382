"""Lightning callbacks of the program besides pruning: the checkpoint for resume, the curves of a run, and its progress.

May import runs/ and every room below app/.
"""

from lightning_dynprune.app.callbacks.checkpoint import LastCheckpoint
from lightning_dynprune.app.callbacks.history import History
from lightning_dynprune.app.callbacks.progress_line import ProgressLine

__all__ = ["History", "LastCheckpoint", "ProgressLine"]
