"""The Hydra program ``dynprune``: trains a dense baseline, prunes the same network while it trains, reports both.

May import every room, Lightning and Hydra.
"""

from lightning_dynprune.app.main import run

__all__ = ["run"]
