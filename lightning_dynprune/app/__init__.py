"""The Hydra program ``dynprune``: trains a dense baseline, prunes the same network while it trains, reports both.

May import every room, Lightning and Hydra.
"""

from typing import TYPE_CHECKING

from lightning_dynprune.base import lazy_names

if TYPE_CHECKING:
    from lightning_dynprune.app.main import run
else:
    # `dynprune --help` imports neither Hydra nor OmegaConf.
    __getattr__, __dir__ = lazy_names(__name__, {"lightning_dynprune.app.main": ["run"]})

__all__ = ["run"]
