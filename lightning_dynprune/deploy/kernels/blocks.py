"""Extract the nonzero blocks of a weight: consecutive outputs of one input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_dynprune.deploy.kernels.base import Kernel, UnsuitableLayerError, format_share

HEIGHTS = (8, 16, 32, 64)
_MAX_KEPT = 0.9  # above this share of kept blocks, gathering costs more than skipping saves


@dataclass(frozen=True)
class Blocks:
    """The kept blocks of a weight, ordered by block row, then by input.

    Args:
        table: the values, ``(blocks, height)``.
        columns: the input of each block, int32 ``(blocks,)``.
        counts: the number of blocks in each block row, int64 ``(block rows,)``; the last block row is padded with zeros
            where the height does not divide the number of outputs.
    """

    table: Tensor
    columns: Tensor
    counts: Tensor

    @classmethod
    def of(cls, weight: Tensor, height: int) -> Blocks:
        """Return the kept blocks of a weight of ``(outputs, inputs)``.

        Raises:
            UnsuitableLayerError: so many blocks are kept that no time can be saved.

        Example:
            >>> weight = torch.zeros(16, 3)
            >>> weight[8:, 2] = 1.0
            >>> found = Blocks.of(weight, 8)
            >>> found.table.shape, found.columns.tolist(), found.counts.tolist()
            (torch.Size([1, 8]), [2], [0, 1])
        """
        kept = kept_blocks(weight, height)
        if kept.sum() > _MAX_KEPT * kept.numel():
            raise UnsuitableLayerError(f"{format_share(kept.sum(), kept.numel())} of the {height} x 1 blocks are kept")
        filled = nn.functional.pad(weight.detach(), (0, 0, 0, -weight.shape[0] % height))
        rows, columns = kept.nonzero(as_tuple=True)
        table = filled.reshape(-1, height, weight.shape[1]).transpose(1, 2)[rows, columns].contiguous()
        return cls(table, columns.int(), kept.sum(1))

    def weight(self, outputs: int, inputs: int) -> Tensor:
        """Return the weight that consists of these blocks."""
        height, rows = self.table.shape[1], len(self.counts)
        weight = self.table.new_zeros(rows, inputs, height)
        block_rows = torch.arange(rows, device=self.counts.device).repeat_interleave(self.counts)
        weight[block_rows, self.columns.long()] = self.table
        return weight.transpose(1, 2).reshape(rows * height, inputs)[:outputs].contiguous()


class BlockKernel(Kernel):
    """A kernel that computes the kept blocks of a weight.

    Attributes:
        name: its registered name.

    Args:
        layer: the layer to replace.
        height: outputs in a block, one of ``HEIGHTS``.

    Raises:
        ValueError: ``height`` is another number.
    """

    name: ClassVar[str]
    setting_names: ClassVar[tuple[str, ...]] = ("height",)

    def __init__(self, layer: nn.Linear, height: int = 32) -> None:
        super().__init__(layer)
        self.height = check_height(height)

    @classmethod
    def settings(cls, layer: nn.Linear) -> list[dict[str, int]]:
        """Return the heights worth timing."""
        return worthwhile_heights(layer.weight)

    @property
    def label(self) -> str:
        """Name and height."""
        return f"{self.name} {self.height}"


def kept_blocks(weight: Tensor, height: int) -> Tensor:
    """Return which blocks have a nonzero entry: bool ``(block rows, inputs)``."""
    entries = nn.functional.pad(weight.detach() != 0, (0, 0, 0, -weight.shape[0] % height))
    return entries.reshape(-1, height, weight.shape[1]).any(1)


def worthwhile_heights(weight: Tensor) -> list[dict[str, int]]:
    """Return the heights worth timing, the tallest first.

    Taller blocks are faster, so a height is left out where a taller one skips as many entries.

    Raises:
        UnsuitableLayerError: nearly all blocks are kept at every height.

    Example:
        >>> weight = torch.ones(64, 10)
        >>> weight[:32, :8] = weight[32:, 2:] = 0.0
        >>> worthwhile_heights(weight)
        [{'height': 64}, {'height': 32}]
    """
    heights: list[dict[str, int]] = []
    lowest = _MAX_KEPT
    shares = {height: float(kept_blocks(weight, height).float().mean()) for height in HEIGHTS}
    for height in reversed(HEIGHTS):
        if shares[height] < 0.95 * lowest or (not heights and shares[height] <= lowest):
            heights.append({"height": height})
            lowest = shares[height]
    if not heights:
        raise UnsuitableLayerError(f"{100 * shares[HEIGHTS[0]]:.0f} % of the {HEIGHTS[0]} x 1 blocks are kept")
    return heights


def check_height(height: int) -> int:
    """Return ``height`` if it is a supported block height.

    Raises:
        ValueError: it is not in ``HEIGHTS``.
    """
    if type(height) is not int or height not in HEIGHTS:
        raise ValueError(f"height={height!r} is not accepted; give one of {', '.join(map(str, HEIGHTS))}")
    return height
