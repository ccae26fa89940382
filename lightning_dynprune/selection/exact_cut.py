"""The exact k-th score over many tensors, found without a copy of all scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lightning_dynprune.base import count_true
from lightning_dynprune.distributed import Ranks
from lightning_dynprune.selection.bracket_search import Search, draw_sample, sum_counts
from lightning_dynprune.selection.cut_result import Cut
from lightning_dynprune.selection.scores import Scores
from lightning_dynprune.selection.ties import cuts_of

_MAX_SENT = 2**22  # scores in the samples of all groups, where processes send them to one another


def cut(keep: int, scores: Sequence[Scores]) -> list[Cut]:
    """Return the cuts that keep exactly the ``keep`` highest-scoring units over all targets.

    Ties break by (position of the target, flat index). A target that would keep less than its ``min_kept`` keeps that
    many, at the expense of the others. A seeded sample brackets the cut, one pass counts the scores above the bracket
    and collects those inside it, and a k-th value of the few collected decides. No concatenated copy is made: the
    memory cost is about 0.3 bytes a unit.

    Args:
        keep: number of units to keep in all; if there are fewer candidates, all of them are kept.
        scores: one entry per target.

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
        found = dict(zip(free, _cut_groups([left], [[scores[i] for i in free]])[0], strict=True))
        too_few = [i for i in free if found[i].kept < scores[i].effective_min_kept]
        if not too_few:
            return [(cuts | found)[i] for i in range(len(scores))]
        cuts |= dict(zip(too_few, cut_each([0] * len(too_few), [scores[i] for i in too_few]), strict=True))


def cut_each(keeps: Sequence[int], scores: Sequence[Scores]) -> list[Cut]:
    """Return the cuts that keep a given number of the highest-scoring units of each target, as :func:`cut` does.

    Processes that hold parts of the targets send as many messages as for one target.

    Args:
        keeps: number of units to keep, one per target; at least ``min_kept`` units are kept.
        scores: one entry per target.

    Raises:
        NonFiniteError: a score is not finite.

    Example:
        >>> a = Scores.from_tensor("a", torch.tensor([0.1, 0.9]))
        >>> b = Scores.from_tensor("b", torch.tensor([0.5, 0.7, 0.7]))
        >>> [c.kept for c in cut_each([1, 2], [a, b])]
        [1, 2]
    """
    counts = [max(keep, s.effective_min_kept) for keep, s in zip(keeps, scores, strict=True)]
    return [found for (found,) in _cut_groups(counts, [[s] for s in scores])]


def cut_above(value: float, scores: Scores) -> Cut:
    """Return the cut that keeps the units scoring above ``value``, but at least ``min_kept`` units.

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


def _cut_groups(keeps: Sequence[int], groups: Sequence[Sequence[Scores]]) -> list[list[Cut]]:
    """Cut several groups of targets, each on its own and ignoring ``min_kept``; all groups share their messages."""
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
        most = max(_MAX_SENT // max(len(searched), 1), 2**12) if ranks.size > 1 else 2**18
        drawn = [draw_sample(groups[number], most) for number in searched]
    if searched:
        samples = ranks.concat_each(drawn)
        searches = [Search(searched[n], groups[n], sample) for n, sample in zip(searched, samples, strict=True)]
        active = searches
        while active:
            with ranks.raise_together():
                for search in active:
                    search.scan()
            sum_counts(active, ranks)
            active = [search for search in active if search.has_missed()]
        cuts |= dict(zip(searched, cuts_of(searches, ranks), strict=True))
    return [cuts[number] for number in range(len(groups))]
