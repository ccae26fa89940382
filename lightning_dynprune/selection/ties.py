"""From brackets to cuts: the exact score at each cut, and which of the units with that score are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_dynprune.base import compare_to_bool, count_true
from lightning_dynprune.distributed import Ranks, Shard
from lightning_dynprune.selection.bracket_search import ScanCounts, Search
from lightning_dynprune.selection.cut_result import Cut
from lightning_dynprune.selection.radix import kth_largest_each, kth_smallest_each
from lightning_dynprune.selection.scores import Scores, at_least_float32


@dataclass(frozen=True)
class _ShardedTies:
    """A sharded target of whose ties only the first are kept; which ones depends on positions in the whole target."""

    search: int
    target: int
    scores: Scores
    found: ScanCounts
    shard: Shard


def cuts_of(searches: Sequence[Search], ranks: Ranks) -> list[list[Cut]]:
    """Return the cuts of finished searches, whose brackets contain the cut: per search one cut per target."""
    collecting = [search for search in searches if search.has_collected]
    values = dict(zip(map(id, collecting), _scores_at_cuts(collecting, ranks), strict=True))
    counts = [
        [sum(int(count_true(test(v, values[id(search)]))) for v in own) for test in (torch.gt, torch.eq)]
        for search in collecting
        for own in search.owned_values
    ]
    summed = iter(ranks.sum(torch.tensor(counts)).tolist() if counts else [])
    cuts: list[list[Cut]] = []
    sharded: list[_ShardedTies] = []
    for search in searches:
        value = values.get(id(search), search.bottom)
        counted = [next(summed) if search.has_collected else (0, f.inside) for f in search.found]
        ties = search.rank - sum(better for better, _ in counted)
        cuts.append([])
        for f, s, (better, equal) in zip(search.found, search.scores, counted, strict=True):
            kept_ties = min(ties, equal)
            ties -= kept_ties
            if s.shard is not None and 0 < kept_ties < equal:
                sharded.append(_ShardedTies(len(cuts) - 1, len(cuts[-1]), s, f, s.shard))
            kept = f.above + better + kept_ties + s.num_protected
            cuts[-1].append(Cut(value, kept_ties, kept, f.pieces, search.sample.dtype))
    for one, local in zip(sharded, _local_ties(sharded, cuts, ranks), strict=True):
        cuts[one.search][one.target] = replace(cuts[one.search][one.target], ties=local)
    return cuts


def _scores_at_cuts(searches: Sequence[Search], ranks: Ranks) -> list[float]:
    """Return, for each search, the score at its rank among the collected ones."""
    values = [[v for own in search.owned_values for v in own] for search in searches]
    if ranks.size == 1:
        pools = [torch.cat([v.to(lot[0].device) for v in lot]) for lot in values]
        return [
            float(pool.kthvalue(pool.numel() - search.rank + 1).values)
            for search, pool in zip(searches, pools, strict=True)
        ]
    found: dict[int, float] = {}
    for dtype in (torch.float32, torch.float64):
        own = [number for number, search in enumerate(searches) if search.sample.dtype == dtype]
        if own:
            at, totals = [searches[n].rank for n in own], [searches[n].inside for n in own]
            found |= dict(zip(own, kth_largest_each(at, [values[n] for n in own], totals, ranks, dtype), strict=True))
    return [found[number] for number in range(len(searches))]


def _local_ties(sharded: Sequence[_ShardedTies], cuts: Sequence[Sequence[Cut]], ranks: Ranks) -> list[int]:
    """Return how many of the kept ties, the first by flat index in the whole target, lie on this process."""
    if not sharded:
        return []

    def positions_of(one: _ShardedTies) -> Callable[[], Iterator[Tensor]]:
        found = cuts[one.search][one.target]

        def positions() -> Iterator[Tensor]:
            start = 0
            for units, tied in _tied_positions(found, one.found, one.scores):
                yield one.shard.positions(tied + start)
                start += units

        return positions

    positions = [positions_of(one) for one in sharded]
    owned = [at if one.scores.is_owner else list for one, at in zip(sharded, positions, strict=True)]
    bits = max(max(one.scores.units - 1, 1).bit_length() for one in sharded)
    last = kth_smallest_each([cuts[one.search][one.target].ties for one in sharded], owned, bits, ranks)
    return [sum(int(count_true(at <= end)) for at in own()) for own, end in zip(positions, last, strict=True)]


def _tied_positions(at: Cut, found: ScanCounts, scores: Scores) -> Iterator[tuple[int, Tensor]]:
    """Yield, piece by piece, its number of units and the positions in it of the units with the score of the cut."""
    if found.pieces is not None:
        for inside in found.pieces:
            yield inside.units, inside.positions[inside.values == at.value].long()
        return
    for piece, candidates in scores.pieces():
        tied = compare_to_bool(at_least_float32(piece).to(at.dtype), at.value, torch.eq)
        yield piece.numel(), (tied if candidates is None else tied & candidates).nonzero().view(-1)
