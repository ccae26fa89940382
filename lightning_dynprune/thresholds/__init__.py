"""Thresholds: where the cut falls."""

from lightning_dynprune.thresholds.base import THRESHOLDS, Threshold, ValueThreshold, units_kept
from lightning_dynprune.thresholds.fixed import Fixed
from lightning_dynprune.thresholds.hysteresis import Hysteresis
from lightning_dynprune.thresholds.mean import Mean
from lightning_dynprune.thresholds.std import Std
from lightning_dynprune.thresholds.topk import TopK

__all__ = ["THRESHOLDS", "Fixed", "Hysteresis", "Mean", "Std", "Threshold", "TopK", "ValueThreshold", "units_kept"]
