"""The exact k-th score over many tensors, without ever holding all scores at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice, pairwise

import torch
from torch import Tensor

from lightning_dynprune.base import compare_to_bool, count_true, true_positions
from lightning_dynprune.distributed import Ranks, Shard
from lightning_dynprune.selection.radix import kth_largest_each, kth_smallest_each
from lightning_dynprune.selection.scores import Scores, at_least_float32

_SIGMAS = 6.0  # a bracket this wide misses about twice in a billion cuts; a miss costs one more pass
_COLLECTED = 0.12  # at most about this share of all units is collected inside a bracket
_FEW = 2**16  # so few units are simply all collected
_SENT = 2**22  # scores in the samples of all groups together, at most, where processes send them one another


@dataclass(frozen=True)
class Cut:
    """Where one target is cut: what scores above ``value`` stays, and the first ``ties`` that score just that.

    Attributes:
        value: the score at the cut; -inf keeps every candidate, inf none.
        ties: how many units at ``value`` stay, in flat order.
        kept: how many units stay in all, protected ones among them.
        drafted: what lies inside the bracket that led here, piece by piece, where scratch bits tell of the rest.
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
        """Yield what lies above the cut, and the scores among which its ties are: all, or those at some positions."""
        if self.drafted is None or scores.scratch_bits is None:
            for piece, candidates in scores.pieces():
                values = at_least_float32(piece)
                values = values if self.dtype is None else values.to(self.dtype)
                keep = compare_to_bool(values, self.value)
                if candidates is not None:
                    keep &= candidates
                yield keep, values, candidates, None
            return
        start = 0
        for inside in self.drafted:
            keep = (scores.scratch_bits[start : start + inside.units] >> 1).view(torch.bool)
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
        >>> a = Scores.from_tensor("a", torch.tensor([0.1, 0.9]))
        >>> b = Scores.from_tensor("b", torch.tensor([0.5, 0.7, 0.7]))
        >>> cuts = cut(3, [a, b])
        >>> [next(c.keeps(s)).tolist() for c, s in zip(cuts, [a, b])]
        [[False, True], [False, True, True]]
    """
    cuts: dict[int, Cut] = {}
    while True:
        free = [i for i in range(len(scores)) if i not in cuts]
        left = max(keep - sum(c.kept for c in cuts.values()), 0)
        found = dict(zip(free, _cut_freely([left], [[scores[i] for i in free]])[0], strict=True))
        poor = [i for i in free if found[i].kept < scores[i].effective_min_kept]
        if not poor:
            return [(cuts | found)[i] for i in range(len(scores))]
        cuts |= dict(zip(poor, cut_each([0] * len(poor), [scores[i] for i in poor]), strict=True))


def cut_each(keeps: Sequence[int], scores: Sequence[Scores]) -> list[Cut]:
    """Return the cuts that keep so many of the best units of each target by itself, as :func:`cut` makes them.

    Processes that hold parts of the targets send as many messages as for one target.

    Args:
        keeps: units to keep, one a target; never less than its ``min_kept`` are.
        scores: one entry a target.

    Raises:
        NonFiniteError: a score is not finite.

    Example:
        >>> a = Scores.from_tensor("a", torch.tensor([0.1, 0.9]))
        >>> b = Scores.from_tensor("b", torch.tensor([0.5, 0.7, 0.7]))
        >>> [c.kept for c in cut_each([1, 2], [a, b])]
        [1, 2]
    """
    most = [max(keep, s.effective_min_kept) for keep, s in zip(keeps, scores, strict=True)]
    return [found for (found,) in _cut_freely(most, [[s] for s in scores])]


def cut_above(value: float, scores: Scores) -> Cut:
    """Return the cut that keeps what scores above ``value``, but never less than ``min_kept`` units.

    Raises:
        NonFiniteError: a score is not finite.
    """
    count = torch.zeros((), dtype=torch.int64)
    ranks = scores.ranks or Ranks.single()
    with ranks.raise_together():
        for piece, candidates in scores.finite_pieces():
            above = piece > value
            count = count + count_true(above if candidates is None else above & candidates).to(count.device)
    kept = int(ranks.sum(count if scores.is_owner else torch.zeros_like(count))) + scores.num_protected
    if kept < scores.effective_min_kept:
        return cut_each([0], [scores])[0]
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


@dataclass
class _Search:
    """The search for one cut over a group of targets, and what it knows so far.

    Attributes:
        keep: candidates to keep.
        scores: one entry a target.
        sample: scores drawn by all processes.
        low: the cut lies at or above this.
        high: the cut lies at or below this.
        bottom: where the last bracket began.
        top: where it ended.
        found: what the last pass found against it.
    """

    keep: int
    scores: Sequence[Scores]
    sample: Tensor
    low: float = -math.inf
    high: float = math.inf
    bottom: float = -math.inf
    top: float = math.inf
    found: Sequence[_Found] = ()

    @property
    def rank(self) -> int:
        """The cut is the so-manieth best of what lies inside the bracket."""
        return self.keep - sum(f.above for f in self.found)

    @property
    def inside(self) -> int:
        """Candidates inside the bracket."""
        return sum(f.inside for f in self.found)

    @property
    def has_collected(self) -> bool:
        """Whether scores inside the bracket were collected."""
        return any(f.pieces is not None for f in self.found)

    @property
    def spoken(self) -> list[Sequence[Tensor]]:
        """The scores collected of each target, where this process owns them."""
        return [f.values if s.is_owner else [] for f, s in zip(self.found, self.scores, strict=True)]

    def look(self) -> None:
        """Count and collect in one pass over the scores here."""
        units, total = sum(s.units for s in self.scores), sum(s.candidates for s in self.scores)
        most = _COLLECTED * units / total if units > _FEW else 2
        self.bottom, self.top = _bracket(self.sample, self.keep / total, self.low, self.high, most)
        self.found = [_scan(s, self.bottom, self.top, self.sample.dtype) for s in self.scores]

    def goes_on(self) -> bool:
        """Return whether the cut lies beside the bracket; the next one begins where this one ended."""
        if self.rank <= 0:
            self.low = _next(self.top, math.inf, self.sample.dtype)
        elif self.rank > self.inside:
            self.high = _next(self.bottom, -math.inf, self.sample.dtype)
        else:
            return False
        return True


def _cut_freely(keeps: Sequence[int], groups: Sequence[Sequence[Scores]]) -> list[list[Cut]]:
    """Cut groups of targets, each by itself, without regard to ``min_kept``; the messages of all groups go together."""
    ranks = next((s.ranks for group in groups for s in group if s.ranks is not None), Ranks.single())
    cuts: dict[int, list[Cut]] = {}
    searched: dict[int, int] = {}
    for number, (keep, group) in enumerate(zip(keeps, groups, strict=True)):
        keep = max(keep - sum(s.num_protected for s in group), 0)
        if 0 < keep < sum(s.candidates for s in group):
            searched[number] = keep
        else:
            cuts[number] = [Cut(-math.inf, 0, s.max_kept) if keep else Cut(math.inf, 0, s.num_protected) for s in group]
    with ranks.raise_together():
        for number in cuts:
            for s in groups[number]:
                for _ in s.finite_pieces():
                    pass
        most = max(_SENT // max(len(searched), 1), 2**12) if ranks.size > 1 else 2**18
        drawn = [_draw(groups[number], most) for number in searched]
    if searched:
        samples = ranks.concat_each(drawn)
        searches = [_Search(searched[n], groups[n], sample) for n, sample in zip(searched, samples, strict=True)]
        going = searches
        while going:
            with ranks.raise_together():
                for search in going:
                    search.look()
            _add(going, ranks)
            going = [search for search in going if search.goes_on()]
        cuts |= dict(zip(searched, _settle(searches, ranks), strict=True))
    return [cuts[number] for number in range(len(groups))]


def _draw(scores: Sequence[Scores], most: int) -> Tensor:
    """Return the scores of a seeded sample of candidates, on the CPU: one drawn from each of equally long stretches.

    There are ``most`` at most, over all processes.

    Where several processes hold the scores, each draws from its own, in proportion.
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
            pieces.append(_Inside(piece.numel(), positions.int(), piece.index_select(0, positions)))
        else:
            inside_count += count_true(inside)
        if scores.scratch_bits is not None:
            noted = scores.scratch_bits[start : start + piece.numel()]
            noted.bitwise_and_(1).bitwise_or_(above.view(torch.uint8).mul_(2))
            start += piece.numel()
    if bottom < top:
        return _Found(int(above_count), sum(p.positions.numel() for p in pieces), pieces)
    return _Found(int(above_count), int(inside_count), None)


def _add(searches: Sequence[_Search], ranks: Ranks) -> None:
    """Let searches know what all processes found together; which it was stays with each."""
    counts = [
        (f.above, f.inside) if s.is_owner else (0, 0)
        for search in searches
        for f, s in zip(search.found, search.scores, strict=True)
    ]
    summed = iter(ranks.sum(torch.tensor(counts)).tolist())
    for search in searches:
        of_each = zip(search.found, islice(summed, len(search.found)), strict=True)
        search.found = [_Found(above, inside, f.pieces) for f, (above, inside) in of_each]


def _settle(searches: Sequence[_Search], ranks: Ranks) -> list[list[Cut]]:
    """Return the cuts of each search, whose bracket holds its cut."""
    collecting = [search for search in searches if search.has_collected]
    values = dict(zip(map(id, collecting), _best_inside(collecting, ranks), strict=True))
    counts = [
        [sum(int(count_true(test(v, values[id(search)]))) for v in own) for test in (torch.gt, torch.eq)]
        for search in collecting
        for own in search.spoken
    ]
    summed = iter(ranks.sum(torch.tensor(counts)).tolist() if counts else [])
    cuts: list[list[Cut]] = []
    split: list[_Split] = []
    for search in searches:
        value = values.get(id(search), search.bottom)
        counted = [next(summed) if search.has_collected else (0, f.inside) for f in search.found]
        ties = search.rank - sum(better for better, _ in counted)
        cuts.append([])
        for f, s, (better, equal) in zip(search.found, search.scores, counted, strict=True):
            taken = min(ties, equal)
            ties -= taken
            if s.shard is not None and 0 < taken < equal:
                split.append(_Split(len(cuts) - 1, len(cuts[-1]), s, f, s.shard))
            kept = f.above + better + taken + s.num_protected
            cuts[-1].append(Cut(value, taken, kept, f.pieces, search.sample.dtype))
    for one, here in zip(split, _ties_here(split, cuts, ranks), strict=True):
        cuts[one.search][one.target] = replace(cuts[one.search][one.target], ties=here)
    return cuts


def _best_inside(searches: Sequence[_Search], ranks: Ranks) -> list[float]:
    """Return of each search the score at its rank among those collected."""
    values = [[v for own in search.spoken for v in own] for search in searches]
    if ranks.size == 1:
        pools = [torch.cat([v.to(lot[0].device) for v in lot]) for lot in values]
        return [
            float(pool.kthvalue(pool.numel() - search.rank + 1).values)
            for search, pool in zip(searches, pools, strict=True)
        ]
    best: dict[int, float] = {}
    for dtype in (torch.float32, torch.float64):
        own = [number for number, search in enumerate(searches) if search.sample.dtype == dtype]
        if own:
            at, totals = [searches[n].rank for n in own], [searches[n].inside for n in own]
            best |= dict(zip(own, kth_largest_each(at, [values[n] for n in own], totals, ranks, dtype), strict=True))
    return [best[number] for number in range(len(searches))]


@dataclass(frozen=True)
class _Split:
    """A target held in parts of which only the first ties stay: those are told by their places in the whole."""

    search: int
    target: int
    scores: Scores
    found: _Found
    shard: Shard


def _ties_here(split: Sequence[_Split], cuts: Sequence[Sequence[Cut]], ranks: Ranks) -> list[int]:
    """Return how many of the ties that stay, the first by their flat index in the whole target, this process holds."""
    if not split:
        return []

    def places_of(one: _Split) -> Callable[[], Iterator[Tensor]]:
        found = cuts[one.search][one.target]

        def places() -> Iterator[Tensor]:
            start = 0
            for units, tied in _tied(found, one.found, one.scores):
                yield one.shard.positions(tied + start)
                start += units

        return places

    places = [places_of(one) for one in split]
    spoken = [at if one.scores.is_owner else list for one, at in zip(split, places, strict=True)]
    bits = max(max(one.scores.units - 1, 1).bit_length() for one in split)
    last = kth_smallest_each([cuts[one.search][one.target].ties for one in split], spoken, bits, ranks)
    return [sum(int(count_true(at <= end)) for at in own()) for own, end in zip(places, last, strict=True)]


def _tied(at: Cut, found: _Found, scores: Scores) -> Iterator[tuple[int, Tensor]]:
    """Yield, piece by piece, its number of units and the positions in it of those that score just as the cut does."""
    if found.pieces is not None:
        for inside in found.pieces:
            yield inside.units, inside.positions[inside.values == at.value].long()
        return
    for piece, candidates in scores.pieces():
        tied = compare_to_bool(at_least_float32(piece).to(at.dtype), at.value, torch.eq)
        yield piece.numel(), (tied if candidates is None else tied & candidates).nonzero().view(-1)


def _next(value: float, towards: float, dtype: torch.dtype) -> float:
    return float(torch.nextafter(torch.tensor(value, dtype=dtype), torch.tensor(towards, dtype=dtype)))
