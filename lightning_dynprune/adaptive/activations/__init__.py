"""Activation thresholds: inputs of linear layers close to zero are skipped, and their weight rows never read.

May import the files of adaptive/ that it builds on, deploy, and the rooms below it.
"""

from lightning_dynprune.adaptive.activations.activation_threshold import ActivationThreshold
from lightning_dynprune.adaptive.activations.layer_densities import output_errors, share_out, thresholds_at
from lightning_dynprune.adaptive.activations.layer_timing import LayerSpeed, int8_dense
from lightning_dynprune.adaptive.activations.linear_layers import LinearLayer, find_layers
from lightning_dynprune.adaptive.activations.relu_swap import find_smooth, swap_back, swap_to_relu
from lightning_dynprune.adaptive.activations.row_skipping import ByteRowSkipping, FloatRowSkipping, RowSkipping
from lightning_dynprune.adaptive.activations.threshold_module import ActivationThresholds

__all__ = [
    "ActivationThreshold",
    "ActivationThresholds",
    "ByteRowSkipping",
    "FloatRowSkipping",
    "LayerSpeed",
    "LinearLayer",
    "RowSkipping",
    "find_layers",
    "find_smooth",
    "int8_dense",
    "output_errors",
    "share_out",
    "swap_back",
    "swap_to_relu",
    "thresholds_at",
]
