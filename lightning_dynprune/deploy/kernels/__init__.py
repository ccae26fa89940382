"""Kernels: other ways to compute a Linear layer whose weight has zeros."""

from lightning_dynprune.deploy.kernels.base import KERNELS, Kernel, RefusedError
from lightning_dynprune.deploy.kernels.block import Block
from lightning_dynprune.deploy.kernels.block_batched import BlockBatched
from lightning_dynprune.deploy.kernels.block_rows import BlockRows
from lightning_dynprune.deploy.kernels.csr import CSR
from lightning_dynprune.deploy.kernels.semi_structured import SemiStructured
from lightning_dynprune.deploy.kernels.slim import Slim

__all__ = [
    "CSR",
    "KERNELS",
    "Block",
    "BlockBatched",
    "BlockRows",
    "Kernel",
    "RefusedError",
    "SemiStructured",
    "Slim",
]
