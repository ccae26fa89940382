"""Distillation: a dense teacher's outputs join the loss of a pruned network while it trains.

May import base, and Lightning's public names.
"""

from lightning_dynprune.callback.distillation.distiller import Distiller
from lightning_dynprune.callback.distillation.settings import Distillation

__all__ = ["Distillation", "Distiller"]
