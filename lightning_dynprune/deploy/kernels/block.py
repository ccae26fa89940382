"""Sum kept blocks with one ``embedding_bag`` call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_dynprune.deploy.kernels.base import KERNELS
from lightning_dynprune.deploy.kernels.blocks import BlockKernel, Blocks

_MAX_GATHERED = 2**20  # input values gathered at a time; bounds the memory of large batches


@KERNELS.register("block")
class Block(BlockKernel):
    """One bag for each block row: the sum of its blocks, each multiplied by its input.

    ``y[block row] = sum of x[column] * block``. ``embedding_bag`` computes this sum with the blocks as its table and
    the gathered inputs as ``per_sample_weights``. It is fast for one or few rows of inputs.

    Args:
        layer: the layer to replace.
        height: outputs in a block, one of 8, 16, 32, 64.

    Raises:
        UnsuitableLayerError: nearly all blocks are kept.
        ValueError: ``height`` is another number.

    Example:
        >>> layer = nn.Linear(4, 16)
        >>> _ = layer.weight.data[:8].zero_()
        >>> kernel, x = Block(layer, height=8), torch.randn(3, 4)
        >>> torch.allclose(kernel(x), layer(x), atol=1e-6), kernel.table.shape
        (True, torch.Size([4, 8]))
    """

    name = "block"
    table: Tensor
    columns: Tensor
    counts: Tensor
    numbers: Tensor
    starts: Tensor

    def __init__(self, layer: nn.Linear, height: int = 32) -> None:
        super().__init__(layer, height)
        blocks = Blocks.of(layer.weight, height)
        self.register_buffer("table", blocks.table)
        self.register_buffer("columns", blocks.columns)
        self.register_buffer("counts", blocks.counts)
        self.register_buffer("numbers", torch.arange(len(blocks.table), device=blocks.table.device).int())
        self.register_buffer("starts", (blocks.counts.cumsum(0) - blocks.counts).int())

    def compute(self, rows: Tensor) -> Tensor:
        """Return the outputs of all rows."""
        if not len(self.table):
            return self.with_bias(rows.new_zeros(len(rows), self.out_features))
        rows_at_a_time = max(1, _MAX_GATHERED // len(self.table))
        if len(rows) <= rows_at_a_time:
            return self.with_bias(self._bags(rows))
        return self.with_bias(torch.cat([self._bags(piece) for piece in torch.split(rows, rows_at_a_time)]))

    def stored_weight(self) -> Tensor:
        """Return the layer's weight."""
        return Blocks(self.table, self.columns, self.counts).weight(self.out_features, self.in_features)

    def _bags(self, rows: Tensor) -> Tensor:
        """Return a bag for each row and block row, with the operator that skips the checks of ``F.embedding_bag``."""
        count, numbers, starts = len(rows), self.numbers, self.starts
        outputs = len(starts) * self.height
        if count != 1:
            first = torch.arange(0, count * len(numbers), len(numbers), dtype=starts.dtype, device=starts.device)
            numbers, starts = numbers.repeat(count), (first[:, None] + starts).view(-1)
        values = rows.index_select(1, self.columns).view(-1)
        return torch.embedding_bag(self.table, numbers, starts, False, 0, False, values)[0].view(count, outputs)
