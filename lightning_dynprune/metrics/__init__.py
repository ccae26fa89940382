"""Metrics of masks (sparsity, sparsity per layer, churn) and of models (compression), for torchmetrics.

They can be used without the rest of the package, for masks of your own too. Imports torch and torchmetrics alone.
"""

from lightning_dynprune.metrics.compression import CompressionRatio, compression_ratio
from lightning_dynprune.metrics.layers import LayerSparsity, layer_sparsity
from lightning_dynprune.metrics.mask_churn import Churn, churn
from lightning_dynprune.metrics.mask_sparsity import Sparsity, sparsity

__all__ = [
    "Churn",
    "CompressionRatio",
    "LayerSparsity",
    "Sparsity",
    "churn",
    "compression_ratio",
    "layer_sparsity",
    "sparsity",
]
