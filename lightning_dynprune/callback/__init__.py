"""The Lightning callback: events in, calls of the pruner and logged values out.

May import Lightning and every room but app.
"""

from lightning_dynprune.callback.dynamic_pruning import DynamicPruning

__all__ = ["DynamicPruning"]
