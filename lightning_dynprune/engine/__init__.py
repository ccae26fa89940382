"""The pruner: one update of the masks from scores to zeros, and its saved state.

May import every room but app, callback, report and deploy.
"""

from lightning_dynprune.engine.guard import AccuracyGuard
from lightning_dynprune.engine.pruner import Pruner
from lightning_dynprune.engine.sharding_limits import refuse_flat_parameters
from lightning_dynprune.engine.slimming import fit_to
from lightning_dynprune.engine.state import sealed

__all__ = ["AccuracyGuard", "Pruner", "fit_to", "refuse_flat_parameters", "sealed"]
