"""Linear layers that read only the weight rows of live inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynprune.adaptive.activations.compat import pack_byte_rows, sum_byte_rows
from lightning_dynprune.adaptive.activations.linear_layers import weight_rows
from lightning_dynprune.adaptive.activations.thresholded_forward import is_live
from lightning_dynprune.adaptive.stages import OneNode

_MOST_ROWS = 32  # above it a matrix product of all rows is faster than sums of the live ones


class RowSkipping(OneNode, ABC):
    r"""Base class of layers that sum the weight rows of their live inputs.

    .. math:: y = \sum_{j: |x_j| > t} x_j W_j + b

    A sum is over one row of inputs alone, so a sample has the same output in any batch. For inference.

    Args:
        layer: the Linear or Conv1D that it replaces; its weight is copied.
        threshold: t; 0 skips zeros only, which changes nothing but the order of the sum.
    """

    bias: Tensor | None

    def __init__(self, layer: nn.Module, threshold: float) -> None:
        super().__init__()
        self.in_features, self.out_features = weight_rows(layer).shape
        self.threshold = threshold
        bias = getattr(layer, "bias", None)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.train(layer.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``(..., outputs)`` for inputs ``(..., inputs)``."""
        rows = inputs.reshape(-1, self.in_features)
        live = is_live(rows, self.threshold)
        if len(rows) == 1:
            # Of one row, which takes as long as a small layer, no offsets are counted.
            indices = live[0].nonzero()[:, 0]
            sums = self.sum_rows(indices, indices.new_zeros(1), rows[0].index_select(0, indices))
        elif 1 < len(rows) <= self.most_rows:
            counts = live.sum(1)
            sums = self.sum_rows(live.nonzero()[:, 1], counts.cumsum(0) - counts, rows[live])
        else:
            sums = self.product(torch.where(live, rows, 0.0))
        if self.bias is not None:
            sums += self.bias
        return sums.view(*inputs.shape[:-1], self.out_features)

    @property
    def most_rows(self) -> float:
        """Largest number of rows of inputs for which single weight rows are read."""
        return _MOST_ROWS

    @abstractmethod
    def sum_rows(self, indices: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
        """Return sums of weight rows, a new tensor ``(bags, outputs)``.

        Args:
            indices: rows of all bags, int64.
            offsets: position in ``indices`` at which each bag begins.
            values: factor of each row.
        """

    @abstractmethod
    def product(self, rows: Tensor) -> Tensor:
        """Return the outputs of many rows, a new tensor ``(n, outputs)`` without bias."""


class FloatRowSkipping(RowSkipping):
    """Sums float32 rows, by ``F.embedding_bag``.

    Args:
        layer: the Linear or Conv1D that it replaces.
        threshold: of its inputs.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> skipping, x = FloatRowSkipping(layer, 0.5), torch.tensor([[1.0, -0.5, 2.0]])
        >>> torch.allclose(skipping(x), layer(torch.tensor([[1.0, 0.0, 2.0]])))
        True
    """

    table: Tensor

    def __init__(self, layer: nn.Module, threshold: float) -> None:
        super().__init__(layer, threshold)
        self.register_buffer("table", weight_rows(layer).clone(memory_format=torch.contiguous_format))

    def sum_rows(self, indices: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
        """Return sums of weight rows."""
        return F.embedding_bag(indices, self.table, offsets, mode="sum", per_sample_weights=values)

    def product(self, rows: Tensor) -> Tensor:
        """Return the outputs of many rows."""
        return rows @ self.table


class ByteRowSkipping(RowSkipping):
    """Sums rows that are stored in 8 bits, each with its own scale and offset.

    Args:
        layer: the Linear or Conv1D that it replaces.
        threshold: of its inputs.

    Example:
        >>> skipping = ByteRowSkipping(nn.Linear(3, 256), 0.0)
        >>> skipping.packed.dtype, skipping.packed.shape
        (torch.uint8, torch.Size([3, 264]))
    """

    packed: Tensor

    def __init__(self, layer: nn.Module, threshold: float) -> None:
        super().__init__(layer, threshold)
        self.register_buffer("packed", pack_byte_rows(weight_rows(layer).contiguous()))

    @property
    def most_rows(self) -> float:
        """Any number, as no float32 weight is kept for a product."""
        return float("inf")

    def sum_rows(self, indices: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
        """Return sums of weight rows."""
        return sum_byte_rows(self.packed, indices.int(), offsets.int(), values)

    def product(self, rows: Tensor) -> Tensor:
        """Return the outputs of no rows."""
        return rows.new_zeros(len(rows), self.out_features)
