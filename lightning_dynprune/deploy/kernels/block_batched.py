"""Multiply kept blocks in one batched product, with all block rows padded to the longest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_dynprune.deploy.kernels.base import KERNELS
from lightning_dynprune.deploy.kernels.blocks import BlockKernel, Blocks

_MAX_GATHERED = 2**22  # input values gathered at a time


@KERNELS.register("block_batched")
class BlockBatched(BlockKernel):
    """One ``bmm`` over the block rows: the gathered inputs of each, times its blocks.

    It is fast for several rows of inputs where the block rows keep similar numbers of blocks.

    Args:
        layer: the layer to replace.
        height: outputs in a block, one of 8, 16, 32, 64.

    Raises:
        UnsuitableLayerError: nearly all blocks are kept.
        ValueError: ``height`` is another number.

    Example:
        >>> layer = nn.Linear(4, 16)
        >>> _ = layer.weight.data[:8, 1:].zero_()
        >>> kernel, x = BlockBatched(layer, height=8), torch.randn(3, 4)
        >>> torch.allclose(kernel(x), layer(x), atol=1e-6), kernel.table.shape
        (True, torch.Size([2, 4, 8]))
    """

    name = "block_batched"
    table: Tensor
    columns: Tensor
    counts: Tensor

    def __init__(self, layer: nn.Linear, height: int = 32) -> None:
        super().__init__(layer, height)
        blocks = Blocks.of(layer.weight, height)
        longest = int(blocks.counts.max())
        table = blocks.table.new_zeros(len(blocks.counts), longest, height)
        columns = blocks.columns.new_zeros(len(blocks.counts), longest)
        used = _used(blocks.counts, longest)
        table[used], columns[used] = blocks.table, blocks.columns
        self.register_buffer("table", table)
        self.register_buffer("columns", columns.view(-1))
        self.register_buffer("counts", blocks.counts)

    def compute(self, rows: Tensor) -> Tensor:
        """Return the outputs of all rows."""
        rows_at_a_time = max(1, _MAX_GATHERED // max(1, len(self.columns)))
        if len(rows) <= rows_at_a_time:
            return self.with_bias(self._products(rows))
        return self.with_bias(torch.cat([self._products(piece) for piece in torch.split(rows, rows_at_a_time)]))

    def stored_weight(self) -> Tensor:
        """Return the layer's weight."""
        used = _used(self.counts, self.table.shape[1])
        blocks = Blocks(self.table[used], self.columns.view_as(used)[used], self.counts)
        return blocks.weight(self.out_features, self.in_features)

    def _products(self, rows: Tensor) -> Tensor:
        """Return the products; inputs are gathered from the transpose, so that each copied piece is contiguous."""
        high, longest, height = self.table.shape
        gathered = rows.t().contiguous().index_select(0, self.columns).view(high, longest, len(rows))
        products = torch.bmm(gathered.transpose(1, 2), self.table)
        return products.transpose(0, 1).reshape(len(rows), high * height)


def _used(counts: Tensor, longest: int) -> Tensor:
    """Return which positions of the padded block rows hold a block."""
    return torch.arange(longest, device=counts.device) < counts[:, None]
