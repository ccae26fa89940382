"""The search for a bracket: a range of scores that contains the cut and few other scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise

import torch
from torch import Tensor

from lightning_dynprune.base import compare_to_bool, count_true, true_positions
from lightning_dynprune.distributed import Ranks
from lightning_dynprune.selection.cut_result import BracketPiece
from lightning_dynprune.selection.scores import Scores

_SIGMAS = 6.0  # a bracket this wide misses about two cuts in a billion; a miss costs one more pass
_MAX_COLLECTED = 0.12  # largest share of all units that is collected inside a bracket, approximately
_COLLECT_ALL_BELOW = 2**16  # units; up to so many, all scores are collected


@dataclass(frozen=True)
class ScanCounts:
    """The counts of one pass over one target, relative to a bracket.

    Attributes:
        above: number of candidates above the bracket, over all processes once :func:`sum_counts` was called.
        inside: number of candidates inside it, likewise.
        pieces: the scores inside it on this process; None if they were only counted.
    """

    above: int
    inside: int
    pieces: Sequence[BracketPiece] | None

    @property
    def values(self) -> Sequence[Tensor]:
        """The collected scores."""
        return [] if self.pieces is None else [piece.values for piece in self.pieces]


@dataclass
class Search:
    """The state of the search for one cut over a group of targets.

    Attributes:
        keep: number of candidates to keep.
        scores: one entry per target.
        sample: sampled scores of all processes.
        low: lower bound of the cut.
        high: upper bound of the cut.
        bottom: lower end of the last bracket.
        top: upper end of the last bracket.
        found: what the last pass counted against it, per target.
    """

    keep: int
    scores: Sequence[Scores]
    sample: Tensor
    low: float = -math.inf
    high: float = math.inf
    bottom: float = -math.inf
    top: float = math.inf
    found: Sequence[ScanCounts] = ()

    @property
    def rank(self) -> int:
        """Rank of the cut among the scores inside the bracket; 1 is the highest."""
        return self.keep - sum(f.above for f in self.found)

    @property
    def inside(self) -> int:
        """Number of candidates inside the bracket."""
        return sum(f.inside for f in self.found)

    @property
    def has_collected(self) -> bool:
        """Whether the scores inside the bracket were collected."""
        return any(f.pieces is not None for f in self.found)

    @property
    def owned_values(self) -> list[Sequence[Tensor]]:
        """The collected scores of each target that this process owns."""
        return [f.values if s.is_owner else [] for f, s in zip(self.found, self.scores, strict=True)]

    def scan(self) -> None:
        """Choose a bracket, then count and collect scores in one pass over those of this process."""
        units, total = sum(s.units for s in self.scores), sum(s.candidates for s in self.scores)
        most = _MAX_COLLECTED * units / total if units > _COLLECT_ALL_BELOW else 2
        self.bottom, self.top = _bracket(self.sample, self.keep / total, self.low, self.high, most)
        self.found = [_scan(s, self.bottom, self.top, self.sample.dtype) for s in self.scores]

    def has_missed(self) -> bool:
        """Return whether the cut lies outside the bracket; if so, narrow the bounds for the next one."""
        if self.rank <= 0:
            self.low = _next_float(self.top, math.inf, self.sample.dtype)
        elif self.rank > self.inside:
            self.high = _next_float(self.bottom, -math.inf, self.sample.dtype)
        else:
            return False
        return True


def draw_sample(scores: Sequence[Scores], most: int) -> Tensor:
    """Return the scores of a seeded sample of candidates, on the CPU: one from each of equally long stretches.

    Where several processes hold the scores, each samples its own in proportion.

    Args:
        scores: one entry per target.
        most: largest size of the sample, over all processes.
    """
    units = sum(s.units for s in scores)
    size = 2**12 if units < 2**19 else 2**14 if units < 2**22 else 2**17 if units < 2**25 else 2**18
    size = min(size, most)
    own = [s.local_units if s.is_owner else 0 for s in scores]
    size, units = math.ceil(size * sum(own) / units), sum(own)
    generator = torch.Generator().manual_seed(units)
    stretch = (torch.arange(size) + torch.rand(size, generator=generator, dtype=torch.float64)) * (units / max(size, 1))
    index = stretch.long().clamp_(max=units - 1)
    starts = list(accumulate(own, initial=0))
    bounds = torch.searchsorted(index, torch.tensor(starts)).tolist()
    drawn = [
        s.candidate_scores((index[first:last] - start).to(s.device)).cpu()
        for s, start, (first, last) in zip(scores, starts, pairwise(bounds), strict=False)
    ]
    dtype = torch.float64 if any(d.dtype == torch.float64 for d in drawn) else torch.float32
    return torch.cat([d.to(dtype) for d in drawn])


def sum_counts(searches: Sequence[Search], ranks: Ranks) -> None:
    """Replace the counts of each search by their sums over all processes; collected scores stay on theirs."""
    counts = [
        (f.above, f.inside) if s.is_owner else (0, 0)
        for search in searches
        for f, s in zip(search.found, search.scores, strict=True)
    ]
    summed = iter(ranks.sum(torch.tensor(counts)).tolist())
    for search in searches:
        of_each = zip(search.found, islice(summed, len(search.found)), strict=True)
        search.found = [ScanCounts(above, inside, f.pieces) for f, (above, inside) in of_each]


def _bracket(sample: Tensor, share: float, low: float, high: float, most: float) -> tuple[float, float]:
    """Return two scores that almost surely enclose the cut; one value twice where a range would hold too many scores.

    Args:
        sample: sampled scores.
        share: share of candidates to keep.
        low: lower bound of the cut.
        high: upper bound of the cut.
        most: largest share of the candidates to collect.
    """
    size = sample.numel()
    rank = share * size
    margin = _SIGMAS * math.sqrt(size * share * (1 - share)) + 1
    top = _score_at_rank(sample, math.floor(rank - margin), high)
    bottom = _score_at_rank(sample, math.ceil(rank + margin), low)
    top = top if low <= top <= high else high
    bottom = bottom if low <= bottom <= high else low
    within = sample[(sample >= bottom) & (sample <= top)]
    if within.numel() <= most * size:
        return bottom, top
    # Many equal scores: test the likeliest single value, whose ties need only be counted.
    better = int((sample > top).sum())
    pivot = _score_at_rank(within, min(max(round(rank) - better, 0), within.numel() - 1), low)
    return pivot, pivot


def _score_at_rank(sample: Tensor, rank: int, otherwise: float) -> float:
    """Return the score at ``rank``, 0 being the highest; ``otherwise`` if the sample has no such rank."""
    size = sample.numel()
    return float(sample.kthvalue(size - rank).values) if 0 <= rank < size else otherwise


def _scan(scores: Scores, bottom: float, top: float, dtype: torch.dtype) -> ScanCounts:
    """Count a target's candidates above ``top`` and collect those in [bottom, top]; a single value is only counted."""
    above_count = torch.zeros((), dtype=torch.int64, device=scores.device)
    inside_count = torch.zeros((), dtype=torch.int64, device=scores.device)
    pieces: list[BracketPiece] = []
    start = 0
    for piece, candidates in scores.finite_pieces():
        piece = piece.to(dtype)
        above, inside = compare_to_bool(piece, top), compare_to_bool(piece, bottom, torch.ge)
        if candidates is not None:
            above &= candidates
            inside &= candidates
        inside ^= above
        above_count += count_true(above)
        if bottom < top:
            positions = true_positions(inside)
            pieces.append(BracketPiece(piece.numel(), positions.int(), piece.index_select(0, positions)))
        else:
            inside_count += count_true(inside)
        if scores.scratch_bits is not None:
            scratch = scores.scratch_bits[start : start + piece.numel()]
            scratch.bitwise_and_(1).bitwise_or_(above.view(torch.uint8).mul_(2))
            start += piece.numel()
    if bottom < top:
        return ScanCounts(int(above_count), sum(p.positions.numel() for p in pieces), pieces)
    return ScanCounts(int(above_count), int(inside_count), None)


def _next_float(value: float, towards: float, dtype: torch.dtype) -> float:
    return float(torch.nextafter(torch.tensor(value, dtype=dtype), torch.tensor(towards, dtype=dtype)))
