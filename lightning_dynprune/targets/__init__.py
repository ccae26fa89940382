"""Targets: which parameters are pruned, and the view of one that a strategy scores.

May import distributed and base.
"""

from lightning_dynprune.targets.catalog import Selector
from lightning_dynprune.targets.covering import Coverage, coverage
from lightning_dynprune.targets.finding import Targets, find_targets, frozen_targets
from lightning_dynprune.targets.matrix import as_matrix, from_matrix
from lightning_dynprune.targets.own_parameters import is_conv1d, is_expert_weight
from lightning_dynprune.targets.target import Target, TargetView
from lightning_dynprune.targets.unwrapping import unwrapped_model, unwrapped_optimizers

__all__ = [
    "Coverage",
    "Selector",
    "Target",
    "TargetView",
    "Targets",
    "as_matrix",
    "coverage",
    "find_targets",
    "from_matrix",
    "frozen_targets",
    "is_conv1d",
    "is_expert_weight",
    "unwrapped_model",
    "unwrapped_optimizers",
]
