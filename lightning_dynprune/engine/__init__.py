"""The pruner: one update of the masks from scores to zeros, and its saved state.

May import every room but app, callback, report and deploy.
"""

from lightning_dynprune.engine.guard import AccuracyGuard
from lightning_dynprune.engine.overview import describe, html_table, progress_text
from lightning_dynprune.engine.pruner import Pruner
from lightning_dynprune.engine.settings import Settings
from lightning_dynprune.engine.sharding_limits import check_no_flat_parameters
from lightning_dynprune.engine.slimming import fit_to
from lightning_dynprune.engine.state import read_state, sealed, state_for_new_fit

__all__ = [
    "AccuracyGuard",
    "Pruner",
    "Settings",
    "check_no_flat_parameters",
    "describe",
    "fit_to",
    "html_table",
    "progress_text",
    "read_state",
    "sealed",
    "state_for_new_fit",
]
