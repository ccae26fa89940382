"""The Lightning callback that fits a method of adaptive/ to a network, evaluates it, and keeps it in checkpoints.

May import Lightning, the files of callback/ and every room below it.
"""

from lightning_dynprune.callback.per_input.input_adaptive_pruning import InputAdaptivePruning

__all__ = ["InputAdaptivePruning"]
