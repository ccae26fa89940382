"""Compute 2:4 sparsity with the sparse tensor cores of CUDA devices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_dynprune.deploy.kernels.base import KERNELS, Kernel, UnsuitableLayerError


@KERNELS.register("semi_structured")
class SemiStructured(Kernel):
    """``F.linear`` with a weight that ``torch.sparse.to_sparse_semi_structured`` compressed.

    An eager call takes about a millisecond whatever the size [measured on an H100], so this kernel is timed only where
    the model will run inside a captured graph. The layer's weight is kept beside the compressed one.

    Args:
        layer: the layer to replace, on a CUDA device.

    Raises:
        UnsuitableLayerError: the device is not CUDA, more than two of four connections are kept, or torch does not
            support the size or dtype.
    """

    captured_only = True
    original: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        _check(layer)
        self.register_buffer("original", layer.weight.detach().clone())
        try:
            self.compressed = torch.sparse.to_sparse_semi_structured(self.original)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            raise UnsuitableLayerError(f"torch: {error}") from error

    @classmethod
    def settings(cls, layer: nn.Linear) -> list[dict[str, int]]:
        """Return one empty set of settings.

        Raises:
            UnsuitableLayerError: the device is not CUDA, or more than two of four connections are kept.
        """
        _check(layer)
        return [{}]

    @property
    def label(self) -> str:
        """Name of the kernel."""
        return "semi_structured"

    def compute(self, rows: Tensor) -> Tensor:
        """Return the outputs of all rows."""
        return nn.functional.linear(rows, self.compressed, self.bias).contiguous()

    def stored_weight(self) -> Tensor:
        """Return the layer's weight."""
        return self.original.clone()


def _check(layer: nn.Linear) -> None:
    if layer.weight.device.type != "cuda":
        raise UnsuitableLayerError(f"2:4 runs on CUDA only, the layer is on {layer.weight.device.type}")
    if layer.in_features % 4:
        raise UnsuitableLayerError(f"4 does not divide the {layer.in_features} inputs")
    if ((layer.weight.detach() != 0).reshape(-1, 4).sum(1) > 2).any():
        raise UnsuitableLayerError("more than two of four connections are kept")
