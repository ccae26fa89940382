"""The record of every update, from which earlier masks are restored.

May import masks, targets, distributed and base.
"""

from lightning_dynprune.journal.delta import Delta
from lightning_dynprune.journal.record import Journal
from lightning_dynprune.journal.update import Update, read_update

__all__ = ["Delta", "Journal", "Update", "read_update"]
