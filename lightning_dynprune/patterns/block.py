"""Rectangles of a weight matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_dynprune.base import check_count, check_flag, is_number
from lightning_dynprune.patterns.base import PATTERNS, TargetPattern
from lightning_dynprune.patterns.matrix import as_matrix, from_matrix
from lightning_dynprune.targets import Target

if TYPE_CHECKING:
    from lightning_dynprune.schedules import Schedule
    from lightning_dynprune.strategies import Strategy
    from lightning_dynprune.thresholds import Threshold


@PATTERNS.register("block")
@dataclass(frozen=True)
class Block(TargetPattern):
    """Blocks of ``rows`` consecutive outputs by ``columns`` consecutive inputs, scored by their mean.

    The inputs of a convolution's output are ordered as its weight is: channel, then place in the kernel. Blocks of
    32 x 1 are what a CPU can skip (see :mod:`lightning_dynprune.deploy.kernels`).

    Args:
        rows: outputs in a block.
        columns: inputs in a block.
        pad: leave the edge that fills no block dense, where the shape does not divide; such a target raises otherwise.

    Raises:
        ValueError: rows or columns below 1.

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
        """Rows times columns."""
        return self.rows * self.columns

    @property
    def label(self) -> str:
        """Name and shape."""
        return f"block {self.rows}x{self.columns}"

    def pool(self, target: Target, scores: Tensor) -> Tensor:
        """Return the mean score of each whole block, in row-major order of the blocks."""
        high, wide = self._blocks(target)
        if not high * wide:
            return scores.new_zeros(0)
        whole = as_matrix(target, scores)[: high * self.rows, : wide * self.columns]
        return whole.reshape(high, self.rows, wide, self.columns).mean((1, 3)).view(-1)

    def expand(self, target: Target, keep: Tensor) -> Tensor:
        """Return the mask in the target's shape; an edge is kept."""
        high, wide = self._blocks(target)
        mask = torch.ones_like(target.parameter, dtype=torch.bool, requires_grad=False)
        if not high * wide:
            return mask
        matrix = torch.ones(as_matrix(target, mask).shape, dtype=torch.bool, device=keep.device)
        blocks = keep.view(high, 1, wide, 1).expand(high, self.rows, wide, self.columns)
        matrix[: high * self.rows, : wide * self.columns] = blocks.reshape(high * self.rows, wide * self.columns)
        return from_matrix(target, matrix)

    def num_uncovered(self, target: Target) -> int:
        """Return the connections at the edge."""
        high, wide = self._blocks(target)
        return target.numel - high * wide * self.size

    def check(self, targets: Sequence[Target], strategy: Strategy, threshold: Threshold, schedule: Schedule) -> None:
        """Refuse targets that do not divide into blocks, unless they are padded.

        Raises:
            ValueError: naming the target and the sizes that would do.
        """
        if self.pad:
            return
        for target in targets:
            if target.parameter.dim() < 2:
                raise ValueError(
                    f"pattern {self.label}: {target.name} has {target.parameter.dim()} dimension and no blocks; "
                    "exclude it, or give pad=True to leave it dense"
                )
            outputs, inputs = as_matrix(target, target.parameter.detach()).shape
            for setting, given, has in (("rows", self.rows, outputs), ("columns", self.columns, inputs)):
                if has % given:
                    raise ValueError(
                        f"pattern block: {setting}={given} does not divide the {has} of {target.name}; accepted are "
                        f"{', '.join(map(str, divisors(has)))}; or exclude it, or give pad=True to leave its edge dense"
                    )

    def final_sparsity(self, targets: Sequence[Target], sparsity: float | None) -> float | None:
        """Return the sparsity as it is.

        Raises:
            ValueError: edges that fill no block leave less to prune.
        """
        total = sum(target.numel for target in targets)
        most = 1 - sum(map(self.num_uncovered, targets)) / max(total, 1)
        if self.pad and is_number(sparsity) and sparsity is not None and sparsity > most:
            raise ValueError(
                f"sparsity={sparsity!r} is not within reach of pattern {self.label}: edges that fill no block stay "
                f"dense, which leaves {most:.6g} to prune at most; give smaller blocks, or exclude those targets"
            )
        return sparsity

    def _blocks(self, target: Target) -> tuple[int, int]:
        if target.parameter.dim() < 2:
            return 0, 0
        outputs, inputs = as_matrix(target, target.parameter.detach()).shape
        return outputs // self.rows, inputs // self.columns


def divisors(number: int) -> list[int]:
    """Return all divisors of a number, from 1 on.

    Example:
        >>> divisors(12)
        [1, 2, 3, 4, 6, 12]
    """
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
