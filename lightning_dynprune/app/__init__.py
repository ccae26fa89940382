"""The Hydra program ``dynprune``: train a dense baseline, prune the same network while it trains, report both.

May import every room, Lightning and Hydra.
"""

from lightning_dynprune.app.main import run

__all__ = ["run"]
