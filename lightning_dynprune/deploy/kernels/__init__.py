"""Kernels: other ways to compute a Linear layer whose weight has zeros."""

from lightning_dynprune.deploy.kernels.acceleration import Accelerated, accelerate
from lightning_dynprune.deploy.kernels.base import KERNELS, Kernel, RefusedError
from lightning_dynprune.deploy.kernels.benchmark_layer import try_layer
from lightning_dynprune.deploy.kernels.block import Block
from lightning_dynprune.deploy.kernels.block_batched import BlockBatched
from lightning_dynprune.deploy.kernels.block_rows import BlockRows
from lightning_dynprune.deploy.kernels.capture_inputs import arrivals
from lightning_dynprune.deploy.kernels.criteria import Terms
from lightning_dynprune.deploy.kernels.csr import CSR
from lightning_dynprune.deploy.kernels.dense import linears, why_dense, why_not_measurable
from lightning_dynprune.deploy.kernels.layer_choice import DENSE, LayerChoice, apply_choice, put, restore
from lightning_dynprune.deploy.kernels.semi_structured import SemiStructured
from lightning_dynprune.deploy.kernels.slim import Slim

__all__ = [
    "CSR",
    "DENSE",
    "KERNELS",
    "Accelerated",
    "Block",
    "BlockBatched",
    "BlockRows",
    "Kernel",
    "LayerChoice",
    "RefusedError",
    "SemiStructured",
    "Slim",
    "Terms",
    "accelerate",
    "apply_choice",
    "arrivals",
    "linears",
    "put",
    "restore",
    "try_layer",
    "why_dense",
    "why_not_measurable",
]
