"""The exact k-th score over many tensors, without ever holding all scores at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from lightning_dynprune.flags import compared, count_true, true_positions
from lightning_dynprune.radix import kth_best, kth_smallest
from lightning_dynprune.ranks import Ranks
from lightning_dynprune.scores import Scores, widened

_SIGMAS = 6.0  # a bracket this wide misses about twice in a billion cuts; a miss costs one more pass
_COLLECTED = 0.12  # at most about this share of all units is collected inside a bracket
_FEW = 2**16  # so few units are simply all collected


@dataclass(frozen=True)
class Cut:
    """Where one target is cut: what scores above ``value`` stays, and the first ``ties`` that score just that.

    Attributes:
        value: the score at the cut; -inf keeps every candidate, inf none.
        ties: how many units at ``value`` stay, in flat order.
        kept: how many units stay in all, protected ones among them.
        drafted: what lies inside the bracket that led here, piece by piece, where the scores hold a draft of the rest.
        dtype: what scores are compared in, where ``value`` may have come from scores of another type.
    """

    value: float
    ties: int
    kept: int
    drafted: Sequence[_Inside] | None = field(default=None, repr=False, compare=False)
    dtype: torch.dtype | None = field(default=None, repr=False, compare=False)

    def keeps(self, scores: Scores) -> Iterator[Tensor]:
        """Yield, piece by piece, a bool tensor that is True where a unit stays."""
        left, start = self.ties, 0
        for keep, values, candidates, positions in self._pieces(scores):
            if left:
                tied = compared(values, self.value, torch.eq)
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
        """Yield what lies above the cut, and the scores among which its ties are: all, or those at some positions."""
        if self.drafted is None or scores.draft is None:
            for piece, candidates in scores.pieces():
                values = widened(piece)
                values = values if self.dtype is None else values.to(self.dtype)
                keep = compared(values, self.value)
                if candidates is not None:
                    keep &= candidates
                yield keep, values, candidates, None
            return
        start = 0
        for inside in self.drafted:
            keep = (scores.draft[start : start + inside.units] >> 1).view(torch.bool)
            keep[inside.positions[inside.values > self.value]] = True
            yield keep, inside.values, None, inside.positions
            start += inside.units


def cut(keep: int, scores: Sequence[Scores]) -> list[Cut]:
    """Return the cuts that keep the ``keep`` best units over all targets, exactly.

    Ties break by (position of the target, flat index). A target that would fall under its ``min_kept`` keeps that many,
    at the expense of the others. A seeded sample brackets the cut, one pass counts what scores above the bracket and
    collects what scores inside it, and a k-th value of the few collected decides. No concatenated copy is made: the
    cost is about 0.3 bytes a unit.

    Args:
        keep: units to keep in all; where there are fewer candidates, all of them are kept.
        scores: one entry a target.

    Raises:
        NonFiniteError: a score is not finite.

    Example:
        >>> a, b = Scores.of("a", torch.tensor([0.1, 0.9])), Scores.of("b", torch.tensor([0.5, 0.7, 0.7]))
        >>> cuts = cut(3, [a, b])
        >>> [next(c.keeps(s)).tolist() for c, s in zip(cuts, [a, b])]
        [[False, True], [False, True, True]]
    """
    cuts: dict[int, Cut] = {}
    while True:
        free = [i for i in range(len(scores)) if i not in cuts]
        left = max(keep - sum(c.kept for c in cuts.values()), 0)
        found = dict(zip(free, _cut_freely(left, [scores[i] for i in free]), strict=True))
        poor = [i for i in free if found[i].kept < scores[i].floor]
        if not poor:
            return [(cuts | found)[i] for i in range(len(scores))]
        cuts |= {i: _cut_freely(scores[i].floor, [scores[i]])[0] for i in poor}


def cut_above(value: float, scores: Scores) -> Cut:
    """Return the cut that keeps what scores above ``value``, but never less than ``min_kept`` units.

    Raises:
        NonFiniteError: a score is not finite.
    """
    count = torch.zeros((), dtype=torch.int64)
    ranks = scores.ranks or Ranks.alone()
    with ranks.together():
        for piece, candidates in scores.checked():
            above = piece > value
            count = count + count_true(above if candidates is None else above & candidates).to(count.device)
    kept = int(ranks.add(count if scores.speaks else torch.zeros_like(count))) + scores.guarded
    if kept < scores.floor:
        return _cut_freely(scores.floor, [scores])[0]
    return Cut(value, 0, kept)


@dataclass(frozen=True)
class _Inside:
    """What one piece of a target has inside a bracket."""

    units: int  # of the whole piece
    positions: Tensor
    values: Tensor


@dataclass(frozen=True)
class _Found:
    """What one pass over one target found against a bracket: how many in all, and which of them here."""

    above: int
    inside: int
    pieces: Sequence[_Inside] | None  # what lies inside, where it was collected

    @property
    def values(self) -> Sequence[Tensor]:
        """The scores collected."""
        return [] if self.pieces is None else [piece.values for piece in self.pieces]


def _cut_freely(keep: int, scores: Sequence[Scores]) -> list[Cut]:
    """Cut without regard to ``min_kept``."""
    keep = max(keep - sum(s.guarded for s in scores), 0)
    total = sum(s.candidates for s in scores)
    ranks = next((s.ranks for s in scores if s.ranks is not None), Ranks.alone())
    if keep == 0 or keep >= total:
        with ranks.together():
            for s in scores:
                for _ in s.checked():
                    pass
        return [Cut(math.inf, 0, s.guarded) if keep == 0 else Cut(-math.inf, 0, s.most) for s in scores]
    units = sum(s.units for s in scores)
    with ranks.together():
        sample = _draw(scores, units)
    sample = ranks.join(sample)
    low, high = -math.inf, math.inf
    while True:
        bottom, top = _bracket(sample, keep / total, low, high, _COLLECTED * units / total if units > _FEW else 2)
        with ranks.together():
            found = [_scan(s, bottom, top, sample.dtype) for s in scores]
        found = _added(found, scores, ranks)
        above = sum(f.above for f in found)
        if keep <= above:
            low = _next(top, math.inf, sample.dtype)
        elif keep > above + sum(f.inside for f in found):
            high = _next(bottom, -math.inf, sample.dtype)
        else:
            return _settle(keep - above, found, bottom, scores, ranks, sample.dtype)


def _draw(scores: Sequence[Scores], units: int) -> Tensor:
    """Return the scores of a seeded sample of candidates, on the CPU: one drawn from each of equally long stretches.

    Where several processes hold the scores, each draws from its own, in proportion.
    """
    size = 2**12 if units < 2**19 else 2**14 if units < 2**22 else 2**17 if units < 2**25 else 2**18
    own = [s.here if s.speaks else 0 for s in scores]
    size, units = math.ceil(size * sum(own) / units), sum(own)
    generator = torch.Generator().manual_seed(units)
    stretch = (torch.arange(size) + torch.rand(size, generator=generator, dtype=torch.float64)) * (units / max(size, 1))
    index = stretch.long().clamp_(max=units - 1)
    starts = list(accumulate(own, initial=0))
    bounds = torch.searchsorted(index, torch.tensor(starts)).tolist()
    drawn = [
        s.drawn((index[first:last] - start).to(s.device)).cpu()
        for s, start, (first, last) in zip(scores, starts, pairwise(bounds), strict=False)
    ]
    dtype = torch.float64 if any(d.dtype == torch.float64 for d in drawn) else torch.float32
    return torch.cat([d.to(dtype) for d in drawn])


def _bracket(sample: Tensor, share: float, low: float, high: float, most: float) -> tuple[float, float]:
    """Return scores between which the cut lies almost surely: a range, or one value where a range would hold too much.

    Args:
        sample: scores drawn.
        share: the share of candidates to keep.
        low: the cut is known to lie at or above this.
        high: the cut is known to lie at or below this.
        most: share of the candidates that may be collected.
    """
    size = sample.numel()
    rank = share * size
    margin = _SIGMAS * math.sqrt(size * share * (1 - share)) + 1
    top = _best(sample, math.floor(rank - margin), high)
    bottom = _best(sample, math.ceil(rank + margin), low)
    top = top if low <= top <= high else high
    bottom = bottom if low <= bottom <= high else low
    within = sample[(sample >= bottom) & (sample <= top)]
    if within.numel() <= most * size:
        return bottom, top
    # Many equal scores: test the likeliest single value, whose ties need only be counted.
    better = int((sample > top).sum())
    pivot = _best(within, min(max(round(rank) - better, 0), within.numel() - 1), low)
    return pivot, pivot


def _best(sample: Tensor, rank: int, otherwise: float) -> float:
    """Return the score at ``rank``, 0 being the highest, or ``otherwise`` where there is no such rank."""
    size = sample.numel()
    return float(sample.kthvalue(size - rank).values) if 0 <= rank < size else otherwise


def _scan(scores: Scores, bottom: float, top: float, dtype: torch.dtype) -> _Found:
    """Count a target's candidates above ``top`` and collect those in [bottom, top]; one value is only counted."""
    above_count = torch.zeros((), dtype=torch.int64, device=scores.device)
    inside_count = torch.zeros((), dtype=torch.int64, device=scores.device)
    pieces: list[_Inside] = []
    start = 0
    for piece, candidates in scores.checked():
        piece = piece.to(dtype)
        above, inside = compared(piece, top), compared(piece, bottom, torch.ge)
        if candidates is not None:
            above &= candidates
            inside &= candidates
        inside ^= above
        above_count += count_true(above)
        if bottom < top:
            positions = true_positions(inside)
            pieces.append(_Inside(piece.numel(), positions.int(), piece.index_select(0, positions)))
        else:
            inside_count += count_true(inside)
        if scores.draft is not None:
            noted = scores.draft[start : start + piece.numel()]
            noted.bitwise_and_(1).bitwise_or_(above.view(torch.uint8).mul_(2))
            start += piece.numel()
    if bottom < top:
        return _Found(int(above_count), sum(p.positions.numel() for p in pieces), pieces)
    return _Found(int(above_count), int(inside_count), None)


def _added(found: Sequence[_Found], scores: Sequence[Scores], ranks: Ranks) -> list[_Found]:
    """Return what all processes found together; which it was stays with each."""
    counts = torch.tensor([(f.above, f.inside) if s.speaks else (0, 0) for f, s in zip(found, scores, strict=True)])
    summed = ranks.add(counts).tolist()
    return [_Found(above, inside, f.pieces) for (above, inside), f in zip(summed, found, strict=True)]


def _settle(
    rank: int, found: Sequence[_Found], bottom: float, scores: Sequence[Scores], ranks: Ranks, dtype: torch.dtype
) -> list[Cut]:
    """Return the cuts, given that the cut is the ``rank``-th best of what lies inside the bracket."""
    if any(f.pieces is not None for f in found):
        spoken = [f.values if s.speaks else [] for f, s in zip(found, scores, strict=True)]
        value = _best_inside(rank, [v for values in spoken for v in values], sum(f.inside for f in found), ranks, dtype)
        counts = [
            [sum(int(count_true(test(v, value))) for v in own) for test in (torch.gt, torch.eq)] for own in spoken
        ]
        better, equal = ranks.add(torch.tensor(counts)).T.tolist()
    else:
        value, better, equal = bottom, [0] * len(found), [f.inside for f in found]
    ties = rank - sum(better)
    cuts = []
    for f, s, more, same in zip(found, scores, better, equal, strict=True):
        taken = min(ties, same)
        ties -= taken
        kept = f.above + more + taken + s.guarded
        # Among parts of a target the first ties are told by their places in the whole.
        here = _ties_here(taken, value, f, s, ranks, dtype) if s.shard is not None and 0 < taken < same else taken
        cuts.append(Cut(value, here, kept, f.pieces, dtype))
    return cuts


def _best_inside(rank: int, values: Sequence[Tensor], total: int, ranks: Ranks, dtype: torch.dtype) -> float:
    """Return the ``rank``-th best of the scores collected."""
    if ranks.size > 1:
        return kth_best(rank, values, total, ranks, dtype)
    pool = torch.cat([v.to(values[0].device) for v in values])
    return float(pool.kthvalue(pool.numel() - rank + 1).values)


def _ties_here(taken: int, value: float, found: _Found, scores: Scores, ranks: Ranks, dtype: torch.dtype) -> int:
    """Return how many of the first ``taken`` ties, by their flat index in the whole target, this process holds."""
    shard = scores.shard
    assert shard is not None

    def places() -> Iterator[Tensor]:
        start = 0
        for units, tied in _tied(value, found, scores, dtype):
            yield shard.positions(tied + start)
            start += units

    bits = max(scores.units - 1, 1).bit_length()
    last = kth_smallest(taken, places if scores.speaks else lambda: [], bits, ranks)
    return sum(int(count_true(at <= last)) for at in places())


def _tied(value: float, found: _Found, scores: Scores, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """Yield, piece by piece, its number of units and the positions in it of those that score ``value``."""
    if found.pieces is not None:
        for inside in found.pieces:
            yield inside.units, inside.positions[inside.values == value].long()
        return
    for piece, candidates in scores.pieces():
        tied = compared(widened(piece).to(dtype), value, torch.eq)
        yield piece.numel(), (tied if candidates is None else tied & candidates).nonzero().view(-1)


def _next(value: float, towards: float, dtype: torch.dtype) -> float:
    return float(torch.nextafter(torch.tensor(value, dtype=dtype), torch.tensor(towards, dtype=dtype)))
