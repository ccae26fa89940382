"""The result of a cut of one target: which of its units are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_dynprune.base import compare_to_bool, count_true
from lightning_dynprune.selection.scores import Scores, at_least_float32


@dataclass(frozen=True)
class BracketPiece:
    """The scores of one piece of a target that lie inside a bracket.

    Attributes:
        units: number of units of the whole piece.
        positions: positions in the piece of the units inside the bracket, int32.
        values: their scores.
    """

    units: int
    positions: Tensor
    values: Tensor


@dataclass(frozen=True)
class Cut:
    """The cut of one target: units that score above ``value`` are kept, and the first ``ties`` that score exactly it.

    Attributes:
        value: the score at the cut; -inf keeps every candidate, inf none.
        ties: number of units with score ``value`` that are kept, in flat order.
        kept: number of units kept in all, including protected ones.
        bracket: the scores inside the bracket that contains the cut, piece by piece, if the scratch bits of the scores
            hold which units lie above it.
        dtype: dtype in which scores are compared, if ``value`` may come from scores of another dtype.
    """

    value: float
    ties: int
    kept: int
    bracket: Sequence[BracketPiece] | None = field(default=None, repr=False, compare=False)
    dtype: torch.dtype | None = field(default=None, repr=False, compare=False)

    def keeps(self, scores: Scores) -> Iterator[Tensor]:
        """Yield, piece by piece, a bool tensor that is True where a unit is kept."""
        left, start = self.ties, 0
        for keep, values, candidates, positions in self._pieces(scores):
            if left:
                tied = compare_to_bool(values, self.value, torch.eq)
                if candidates is not None:
                    tied &= candidates
                count = int(count_true(tied))
                if positions is None and count <= left:
                    keep |= tied
                elif count:
                    first = tied.nonzero().view(-1)[:left]
                    keep[first if positions is None else positions[first]] = True
                left -= min(left, count)
            if scores.protected is not None:
                keep |= scores.protected[start : start + keep.numel()]
                start += keep.numel()
            yield keep

    def _pieces(self, scores: Scores) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        """Yield (units above the cut, scores that may tie, candidates, positions of these scores; None: all)."""
        if self.bracket is None or scores.scratch_bits is None:
            for piece, candidates in scores.pieces():
                values = at_least_float32(piece)
                values = values if self.dtype is None else values.to(self.dtype)
                keep = compare_to_bool(values, self.value)
                if candidates is not None:
                    keep &= candidates
                yield keep, values, candidates, None
            return
        start = 0
        for inside in self.bracket:
            keep = (scores.scratch_bits[start : start + inside.units] >> 1).view(torch.bool)
            keep[inside.positions[inside.values > self.value]] = True
            yield keep, inside.values, None, inside.positions
            start += inside.units
