"""The scores of a target, made piece by piece whenever they are asked for."""

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
    """The scores of one target, one a unit of its pattern, made on demand.

    Attributes:
        name: qualified name of the target.
        units: how many units there are.
        candidates: how many of them may be kept or pruned, as their scores have it.
        pieces: yields (scores, candidates) in flat order; the second is bool, or None where all are candidates.
        sample: the same at given flat indices (int64).
        min_kept: units that must be kept.
        protected: flat bool, which units stay whatever they score; no candidates. None: none.
        num_protected: how many those are.
        size: connections of a unit.
        num_uncovered: connections of the target that no unit covers.
        device: where the scores are made.
        shape: shape of the target.
        sparsity: the target's own sparsity at the end, where it has one.
        clip: scores above this count as infinitely good.
        scratch_bits: one byte a unit, flat, of which bit 1 is free to note what lies above a bracket; None where there
            is no such memory, and scores are then made once more to tell what stays.
        memory: what the threshold remembers of the target.
        seed: differs between targets, updates and runs, and is the same on every rank.
        step: optimizer steps done.
        ranks: the processes that hold the scores of all targets together; None: all scores are here.
        shard: what part of them is here, where that is not all; pieces and samples are of this part.
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
        """Units whose scores are made by this process."""
        return self.units if self.shard is None else math.prod(self.shard.size)

    @property
    def is_owner(self) -> bool:
        """Whether this process is_owner for the units here where others hold a copy of them."""
        if self.ranks is None:
            return True
        return self.ranks.rank == 0 if self.shard is None else self.shard.is_owner

    @property
    def effective_min_kept(self) -> int:
        """Units that must be kept, as far as there are any to keep."""
        return min(max(self.min_kept, self.num_protected), self.max_kept)

    @property
    def max_kept(self) -> int:
        """Units that may be kept."""
        return self.candidates + self.num_protected

    def finite_pieces(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the pieces, in float32 at least.

        Raises:
            NonFiniteError: a score is not finite.
        """
        for scores, candidates in self.pieces():
            check_finite(scores, f"scores of {self.name}")
            yield self._clipped(at_least_float32(scores)), candidates

    def candidate_scores(self, index: Tensor) -> Tensor:
        """Return the scores of those units of ``index`` that are candidates."""
        scores, candidates = self.sample(index)
        scores = self._clipped(at_least_float32(scores))
        return scores if candidates is None else scores[candidates]

    def _clipped(self, scores: Tensor) -> Tensor:
        return scores if self.clip == math.inf else scores.masked_fill(scores > self.clip, math.inf)

    @classmethod
    def from_tensor(cls, name: str, scores: Tensor, candidates: Tensor | None = None, min_kept: int = 1) -> Scores:
        """Return scores that lie in one tensor."""
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
    """Return the mean and the standard deviation (divisor n) of a target's candidates; 0 and 0 where there are none.

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
    """Raise where a tensor holds NaN or inf.

    Raises:
        NonFiniteError: naming ``what``.
    """
    # Any NaN or inf survives a sum, the cheapest pass there is; a sum can also overflow, so a second look decides.
    if not math.isfinite(values.sum()) and not bool(torch.isfinite(values).all()):
        raise NonFiniteError(
            f"{what} are not finite; masks and weights are left as they were. Look for a loss that diverged or an "
            "overflow in mixed precision"
        )


def at_least_float32(scores: Tensor) -> Tensor:
    """Return scores in float32 or float64; the exact same values."""
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
