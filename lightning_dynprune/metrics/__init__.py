"""Metrics of masks (sparsity, churn), of models (compression) and of inputs (compute), for torchmetrics.

They can be used without the rest of the package, for masks of your own too. Imports torch and torchmetrics alone.
"""

from lightning_dynprune.metrics.compression import CompressionRatio, compression_ratio
from lightning_dynprune.metrics.compute_per_input import ComputePerInput, LayerDensity, PathShares
from lightning_dynprune.metrics.layers import LayerSparsity, layer_sparsity
from lightning_dynprune.metrics.mask_churn import Churn, churn
from lightning_dynprune.metrics.mask_sparsity import Sparsity, sparsity

__all__ = [
    "Churn",
    "CompressionRatio",
    "ComputePerInput",
    "LayerDensity",
    "LayerSparsity",
    "PathShares",
    "Sparsity",
    "churn",
    "compression_ratio",
    "layer_sparsity",
    "sparsity",
]
