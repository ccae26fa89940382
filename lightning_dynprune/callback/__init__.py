"""The Lightning callback, which passes events of a Trainer to the pruner, and logs its metrics.

May import Lightning and every room but app.
"""

from lightning_dynprune.callback.dynamic_pruning import DynamicPruning
from lightning_dynprune.callback.pruned_checkpoint import PrunedCheckpoint

__all__ = ["DynamicPruning", "PrunedCheckpoint"]
