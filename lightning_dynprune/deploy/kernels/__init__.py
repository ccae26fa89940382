"""Kernels: alternative computations of a Linear layer whose weight has zeros, and the choice of the fastest one.

May import deploy.timing, masks and base.
"""

from lightning_dynprune.deploy.kernels.acceleration import Accelerated, accelerate
from lightning_dynprune.deploy.kernels.base import KERNELS, Kernel, UnsuitableLayerError
from lightning_dynprune.deploy.kernels.block import Block
from lightning_dynprune.deploy.kernels.block_batched import BlockBatched
from lightning_dynprune.deploy.kernels.block_rows import BlockRows
from lightning_dynprune.deploy.kernels.csr import CSR
from lightning_dynprune.deploy.kernels.eligibility import linear_layers, reason_not_measurable, reasons_to_stay_dense
from lightning_dynprune.deploy.kernels.input_capture import capture_inputs
from lightning_dynprune.deploy.kernels.layer_benchmark import benchmark_layer
from lightning_dynprune.deploy.kernels.layer_choice import DENSE, LayerChoice, apply_choice, replace_module, restore
from lightning_dynprune.deploy.kernels.selection_criteria import SelectionCriteria
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
    "SelectionCriteria",
    "SemiStructured",
    "Slim",
    "UnsuitableLayerError",
    "accelerate",
    "apply_choice",
    "benchmark_layer",
    "capture_inputs",
    "linear_layers",
    "reason_not_measurable",
    "reasons_to_stay_dense",
    "replace_module",
    "restore",
]
