"""Which parameters are pruned, and the view of one that a strategy sees.

May import distributed and base.
"""

from lightning_dynprune.targets.target import Selector, Target, Targets, TargetView, find_targets, frozen_targets
from lightning_dynprune.targets.unwrapping import unwrapped_model, unwrapped_optimizers

__all__ = [
    "Selector",
    "Target",
    "TargetView",
    "Targets",
    "find_targets",
    "frozen_targets",
    "unwrapped_model",
    "unwrapped_optimizers",
]
