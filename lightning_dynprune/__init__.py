"""Dynamic pruning for PyTorch Lightning."""

from lightning_dynprune.callback import DynamicPruning
from lightning_dynprune.pruner import Pruner, Update

__all__ = ["DynamicPruning", "Pruner", "Update"]
