"""Multiply kept blocks, block row by block row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_dynprune.deploy.kernels.base import KERNELS
from lightning_dynprune.deploy.kernels.blocks import BlockKernel, Blocks


@KERNELS.register("block_rows")
class BlockRows(BlockKernel):
    """One matrix product for each block row: its gathered inputs times its blocks.

    It is fast for many rows of inputs, and where the block rows keep very different numbers of blocks.

    Args:
        layer: the layer to replace.
        height: outputs in a block, one of 8, 16, 32, 64.

    Raises:
        UnsuitableLayerError: nearly all blocks are kept.
        ValueError: ``height`` is another number.

    Example:
        >>> layer = nn.Linear(4, 16)
        >>> _ = layer.weight.data[:8, 1:].zero_()
        >>> kernel, x = BlockRows(layer, height=8), torch.randn(3, 4)
        >>> torch.allclose(kernel(x), layer(x), atol=1e-6), kernel.counts
        (True, [1, 4])
    """

    name = "block_rows"
    table: Tensor
    columns: Tensor

    def __init__(self, layer: nn.Linear, height: int = 32) -> None:
        super().__init__(layer, height)
        blocks = Blocks.of(layer.weight, height)
        self.counts: list[int] = blocks.counts.tolist()
        self.register_buffer("table", blocks.table)
        self.register_buffer("columns", blocks.columns)

    def compute(self, rows: Tensor) -> Tensor:
        """Return the outputs of all rows."""
        pairs = zip(torch.split(self.columns, self.counts), torch.split(self.table, self.counts), strict=True)
        return self.with_bias(torch.cat([rows.index_select(1, columns) @ table for columns, table in pairs], 1))

    def stored_weight(self) -> Tensor:
        """Return the layer's weight."""
        blocks = Blocks(self.table, self.columns, torch.tensor(self.counts, device=self.table.device))
        return blocks.weight(self.out_features, self.in_features)
