"""The pattern ``block``: rectangles of a weight matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_dynprune.base import check_count, check_flag, is_number
from lightning_dynprune.patterns.base import PATTERNS, TargetPattern
from lightning_dynprune.patterns.layouts import check_layouts
from lightning_dynprune.targets import Target, as_matrix, from_matrix

if TYPE_CHECKING:
    from lightning_dynprune.schedules import Schedule
    from lightning_dynprune.strategies import Strategy
    from lightning_dynprune.thresholds import Threshold


@PATTERNS.register("block")
@dataclass(frozen=True)
class Block(TargetPattern):
    """Prunes blocks of ``rows`` consecutive outputs by ``columns`` consecutive inputs of a weight matrix.

    The score of a block is the mean of its connections' scores. The columns of a convolution's matrix are ordered like
    its weight: input channel, then position in the kernel. The CPU kernels of
    :mod:`lightning_dynprune.deploy.kernels` skip pruned blocks of 32 x 1.

    Args:
        rows: number of outputs in a block.
        columns: number of inputs in a block.
        pad: whether rows and columns that fill no whole block are left dense. Without it a target whose shape does not
            divide into blocks raises.

    Raises:
        TypeError: rows or columns is not a whole number, or pad is not a bool.
        ValueError: rows or columns is below 1.

    Example:
        >>> target = Target("w", torch.nn.Parameter(torch.zeros(4, 2)))
        >>> Block(rows=2).pool(target, torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])).tolist()
        [2.0, 3.0, 6.0, 7.0]
        >>> Block(rows=2).expand(target, torch.tensor([True, False, False, True])).int().tolist()
        [[1, 0], [1, 0], [0, 1], [0, 1]]
    """

    rows: int = 32
    columns: int = 1
    pad: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("pattern block: rows", self.rows)
        check_count("pattern block: columns", self.columns)
        check_flag("pattern block: pad", self.pad)

    @property
    def size(self) -> int:
        """Number of connections in a block: rows times columns."""
        return self.rows * self.columns

    @property
    def label(self) -> str:
        """The name of the pattern in messages, with the block's shape."""
        return f"block {self.rows}x{self.columns}"

    def pool(self, target: Target, scores: Tensor) -> Tensor:
        """Return the mean score of each whole block, the blocks in row-major order."""
        high, wide = self._blocks(target)
        if not high * wide:
            return scores.new_zeros(0)
        whole = as_matrix(scores, target.transposed)[: high * self.rows, : wide * self.columns]
        return whole.reshape(high, self.rows, wide, self.columns).mean((1, 3)).view(-1)

    def expand(self, target: Target, keep: Tensor) -> Tensor:
        """Return the mask that keeps the given blocks and all connections outside whole blocks."""
        high, wide = self._blocks(target)
        mask = torch.ones_like(target.parameter, dtype=torch.bool, requires_grad=False)
        if not high * wide:
            return mask
        matrix = torch.ones(as_matrix(mask, target.transposed).shape, dtype=torch.bool, device=keep.device)
        blocks = keep.view(high, 1, wide, 1).expand(high, self.rows, wide, self.columns)
        matrix[: high * self.rows, : wide * self.columns] = blocks.reshape(high * self.rows, wide * self.columns)
        return from_matrix(matrix, target.parameter.shape, target.transposed)

    def num_uncovered(self, target: Target) -> int:
        """Return the number of connections outside whole blocks."""
        high, wide = self._blocks(target)
        return target.numel - high * wide * self.size

    def check(self, targets: Sequence[Target], strategy: Strategy, threshold: Threshold, schedule: Schedule) -> None:
        """Check that every target divides into blocks, unless ``pad`` is set, and that its layout is known.

        Raises:
            ValueError: a target does not, or its layout is unknown; the message names it and the sizes that divide it.
        """
        check_layouts(self.label, targets)
        if self.pad:
            return
        for target in targets:
            if target.parameter.dim() < 2:
                raise ValueError(
                    f"pattern {self.label}: {target.name} has {target.parameter.dim()} dimension, and blocks need two; "
                    "exclude it, or give pad=True to leave it dense"
                )
            outputs, inputs = as_matrix(target.parameter.detach(), target.transposed).shape
            for setting, given, has in (("rows", self.rows, outputs), ("columns", self.columns, inputs)):
                if has % given:
                    raise ValueError(
                        f"pattern block: {setting}={given} does not divide the {has} of {target.name}; accepted are "
                        f"{', '.join(map(str, divisors(has)))}; or exclude it, or give pad=True to leave its edge dense"
                    )

    def final_sparsity(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
        """Return the sparsity as given.

        Raises:
            ValueError: connections outside whole blocks leave too few to prune.
        """
        total = sum(target.numel for target in targets)
        most = 1 - sum(map(self.num_uncovered, targets)) / max(total, 1)
        if self.pad and is_number(sparsity) and sparsity is not None and sparsity > most:
            raise ValueError(
                f"sparsity={sparsity!r} is out of reach of pattern {self.label}: connections outside whole blocks "
                f"stay dense, so {most:.6g} is the highest sparsity; give smaller blocks, or exclude those targets"
            )
        return sparsity

    def _blocks(self, target: Target) -> tuple[int, int]:
        """Return how many whole blocks fit below and beside each other."""
        if target.parameter.dim() < 2:
            return 0, 0
        outputs, inputs = as_matrix(target.parameter.detach(), target.transposed).shape
        return outputs // self.rows, inputs // self.columns


def divisors(number: int) -> list[int]:
    """Return all divisors of a number in ascending order.

    Example:
        >>> divisors(12)
        [1, 2, 3, 4, 6, 12]
    """
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
