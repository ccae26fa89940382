"""Gradients for strategies: observed before each optimizer step, and kept until the next update.

May import what engine may.
"""

from lightning_dynprune.engine.gradients.gradient_feed import GradientFeed
from lightning_dynprune.engine.gradients.gradient_observer import GradientObserver, check_gradients
from lightning_dynprune.engine.gradients.gradient_snapshot import GradientSnapshot
from lightning_dynprune.engine.gradients.optimizer_hooks import OptimizerHooks

__all__ = ["GradientFeed", "GradientObserver", "GradientSnapshot", "OptimizerHooks", "check_gradients"]
