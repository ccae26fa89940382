"""The scores of a target, computed piece by piece on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_dynprune.distributed import Ranks, Shard


class NonFiniteError(RuntimeError):
    """A score or a weight is NaN or infinite."""


@dataclass(frozen=True)
class Scores:
    """The scores of one target, one per unit of its pattern, computed on demand.

    Attributes:
        name: qualified name of the target.
        units: number of units.
        candidates: number of units that are kept or pruned by their score.
        pieces: yields (scores, candidates) in flat order; ``candidates`` is bool, or None if all units are candidates.
        sample: returns the same at given flat indices (int64).
        min_kept: smallest number of units to keep.
        protected: flat bool, units that are kept whatever their score, and are no candidates; None: none.
        num_protected: number of protected units.
        size: connections per unit.
        num_uncovered: connections of the target that no unit covers.
        device: device of the scores.
        shape: shape of the target.
        sparsity: the target's own final sparsity; None if it has none.
        clip: scores above this count as infinite.
        scratch_bits: one byte per unit, flat, whose bit 1 records which units lie above a bracket; None if there is no
            such memory, and scores are computed once more to find the kept units.
        memory: tensors that the threshold keeps for the target.
        seed: differs between targets, updates and runs, and is the same on every rank.
        step: number of optimizer steps done.
        ranks: the processes that together hold the scores of all targets; None: this process holds all of them.
        shard: the part of the scores that this process holds, which pieces and samples cover; None: all of them.
    """

    name: str
    units: int
    candidates: int
    pieces: Callable[[], Iterator[tuple[Tensor, Tensor | None]]]
    sample: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    min_kept: int = 1
    protected: Tensor | None = None
    num_protected: int = 0
    size: int = 1
    num_uncovered: int = 0
    device: torch.device | str = "cpu"
    shape: tuple[int, ...] = ()
    sparsity: float | None = None
    clip: float = math.inf
    scratch_bits: Tensor | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    step: int = 0
    ranks: Ranks | None = None
    shard: Shard | None = None

    @property
    def local_units(self) -> int:
        """Number of units whose scores this process computes."""
        return self.units if self.shard is None else math.prod(self.shard.size)

    @property
    def is_owner(self) -> bool:
        """Whether this process counts its units in sums over processes, where others hold copies of them."""
        if self.ranks is None:
            return True
        return self.ranks.rank == 0 if self.shard is None else self.shard.is_owner

    @property
    def effective_min_kept(self) -> int:
        """Smallest number of units to keep: ``min_kept`` or all protected ones, but no more than there are."""
        return min(max(self.min_kept, self.num_protected), self.max_kept)

    @property
    def max_kept(self) -> int:
        """Largest number of units that can be kept: candidates and protected ones."""
        return self.candidates + self.num_protected

    def finite_pieces(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the pieces, in float32 or float64, after checking that all scores are finite.

        Raises:
            NonFiniteError: a score is not finite.
        """
        for scores, candidates in self.pieces():
            check_finite(scores, f"scores of {self.name}")
            yield self._clipped(at_least_float32(scores)), candidates

    def candidate_scores(self, index: Tensor) -> Tensor:
        """Return the scores of the candidates among the units at ``index``."""
        scores, candidates = self.sample(index)
        scores = self._clipped(at_least_float32(scores))
        return scores if candidates is None else scores[candidates]

    def _clipped(self, scores: Tensor) -> Tensor:
        return scores if self.clip == math.inf else scores.masked_fill(scores > self.clip, math.inf)

    @classmethod
    def from_tensor(cls, name: str, scores: Tensor, candidates: Tensor | None = None, min_kept: int = 1) -> Scores:
        """Return scores held in one tensor.

        Args:
            name: name of the target.
            scores: one score per unit, of any shape.
            candidates: bool, shaped like the scores; None: all units are candidates.
            min_kept: smallest number of units to keep.
        """
        flat = scores.reshape(-1)
        mask = None if candidates is None else candidates.reshape(-1)
        return cls(
            name,
            units=flat.numel(),
            candidates=flat.numel() if mask is None else int(mask.sum()),
            pieces=lambda: iter([(flat, mask)]),
            sample=lambda index: (flat[index], None if mask is None else mask[index]),
            min_kept=min_kept,
            device=flat.device,
            shape=tuple(scores.shape),
        )


def moments(scores: Scores) -> tuple[float, float]:
    """Return the mean and the standard deviation (divisor n) of a target's candidate scores; 0 and 0 if it has none.

    Raises:
        NonFiniteError: a score is not finite.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    ranks = scores.ranks or Ranks.single()
    with ranks.raise_together():
        for piece, candidates in scores.finite_pieces():
            values = (piece if candidates is None else piece[candidates]).double()
            sums += torch.stack([values.sum(), values.square_().sum()]).cpu()
    total, squares = ranks.sum(sums if scores.is_owner else torch.zeros_like(sums)).tolist()
    count = max(scores.candidates, 1)
    mean = total / count
    return mean, math.sqrt(max(squares / count - mean * mean, 0.0))


def check_finite(values: Tensor, what: str) -> None:
    """Raise if a tensor holds NaN or inf.

    Args:
        values: the tensor.
        what: names it in the message.

    Raises:
        NonFiniteError: the tensor holds NaN or inf.
    """
    # Any NaN or inf survives a sum, which is the cheapest test; a sum can also overflow, so isfinite decides.
    if not math.isfinite(values.sum()) and not bool(torch.isfinite(values).all()):
        raise NonFiniteError(
            f"{what} are not finite; masks and weights are left as they were. Look for a loss that diverged or an "
            "overflow in mixed precision"
        )


def at_least_float32(scores: Tensor) -> Tensor:
    """Return scores as float32, or as float64 if they are; the values do not change."""
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
