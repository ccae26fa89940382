"""Early exits: heads after layers of a network, thresholds on their confidence, and the forward that ends at them.

May import the files of adaptive/ that it builds on, deploy, and the rooms below it.
"""

from lightning_dynprune.adaptive.exits.early_exit import EarlyExit
from lightning_dynprune.adaptive.exits.exit_module import EarlyExits
from lightning_dynprune.adaptive.exits.head_confidence import calibration_error, confidence, fit_temperature
from lightning_dynprune.adaptive.exits.head_fit import exit_loss
from lightning_dynprune.adaptive.exits.heads import ExitHead
from lightning_dynprune.adaptive.exits.threshold_search import (
    Chosen,
    HeldOut,
    exits_taken,
    for_budget,
    for_largest_drop,
)

__all__ = [
    "Chosen",
    "EarlyExit",
    "EarlyExits",
    "ExitHead",
    "HeldOut",
    "calibration_error",
    "confidence",
    "exit_loss",
    "exits_taken",
    "fit_temperature",
    "for_budget",
    "for_largest_drop",
]
