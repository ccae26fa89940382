"""Classifiers of increasing cost, of which each input takes the first that is confident: confidences and thresholds.

May import the files of adaptive/ that all methods share, and the rooms below adaptive.
"""

from lightning_dynprune.adaptive.cascade.confidence_calibration import calibration_error, confidence, fit_temperature
from lightning_dynprune.adaptive.cascade.threshold_search import (
    Chosen,
    HeldOut,
    exits_taken,
    for_budget,
    for_largest_drop,
    judge,
)
from lightning_dynprune.adaptive.cascade.thresholded import ThresholdedModule, check_budget

__all__ = [
    "Chosen",
    "HeldOut",
    "ThresholdedModule",
    "calibration_error",
    "check_budget",
    "confidence",
    "exits_taken",
    "fit_temperature",
    "for_budget",
    "for_largest_drop",
    "judge",
]
