"""Capture of layer inputs, and the refit of pruned weights (reconstruction).

May import selection and the rooms below it.
"""

from lightning_dynprune.calibration.layer_inputs import InputCapture
from lightning_dynprune.calibration.progress import with_progress
from lightning_dynprune.calibration.reconstruction import Hessians

__all__ = ["Hessians", "InputCapture", "with_progress"]
