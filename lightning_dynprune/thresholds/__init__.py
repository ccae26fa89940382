"""Thresholds: decide which units are kept, from their scores and the scheduled sparsity.

Imports schedules, selection and the rooms below it.
"""

from lightning_dynprune.thresholds.base import THRESHOLDS, Threshold, ValueThreshold, connections_to_keep, units_to_keep
from lightning_dynprune.thresholds.fixed import Fixed
from lightning_dynprune.thresholds.hysteresis import Hysteresis
from lightning_dynprune.thresholds.mean import Mean
from lightning_dynprune.thresholds.std import Std
from lightning_dynprune.thresholds.topk import TopK

__all__ = [
    "THRESHOLDS",
    "Fixed",
    "Hysteresis",
    "Mean",
    "Std",
    "Threshold",
    "TopK",
    "ValueThreshold",
    "connections_to_keep",
    "units_to_keep",
]
