"""Gradients for strategies: observed each step, kept for the next update, around the steps of optimizers.

May import what engine may.
"""

from lightning_dynprune.engine.gradients.gradient_observer import Observation
from lightning_dynprune.engine.gradients.gradient_snapshot import LastGradients
from lightning_dynprune.engine.gradients.optimizer_hooks import Stepping

__all__ = ["LastGradients", "Observation", "Stepping"]
