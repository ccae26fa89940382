"""The Lightning callbacks: they pass events of a Trainer to the pruner or to a method of adaptive/, and log metrics.

May import Lightning and every room but app.
"""

from lightning_dynprune.callback.distillation import Distillation
from lightning_dynprune.callback.dynamic_pruning import DynamicPruning
from lightning_dynprune.callback.per_input import InputAdaptivePruning
from lightning_dynprune.callback.pruned_checkpoint import PrunedCheckpoint

__all__ = ["Distillation", "DynamicPruning", "InputAdaptivePruning", "PrunedCheckpoint"]
