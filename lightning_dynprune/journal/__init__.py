"""The record of every update: what was dropped and grown, when, at which cut; any earlier mask restored."""

from lightning_dynprune.journal.delta import Delta
from lightning_dynprune.journal.record import Journal
from lightning_dynprune.journal.update import Update, read_update

__all__ = ["Delta", "Journal", "Update", "read_update"]
