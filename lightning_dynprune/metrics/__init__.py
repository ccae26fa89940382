"""How sparse a model is, as torchmetrics: of masks (sparsity, layers, churn) and of the model itself."""

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
