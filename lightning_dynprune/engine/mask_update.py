"""One update of the masks: score, cut, exchange, write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynprune.engine.score_reader import scores_of
from lightning_dynprune.masks import MaskSet, without_scratch_bit
from lightning_dynprune.patterns import TargetPattern
from lightning_dynprune.selection import Cut, Scores
from lightning_dynprune.strategies import Strategy, uniform
from lightning_dynprune.targets import TargetView
from lightning_dynprune.thresholds import Threshold, units_kept

Written = Callable[[int, "Tensor | None"], None]
Writing = tuple[int, Iterable[Tensor], "int | None"]


@dataclass(frozen=True)
class Changes:
    """What an update did, one entry a target.

    Attributes:
        cuts: the score at the cut.
        dropped: connections pruned.
        grown: connections returned.
    """

    cuts: list[float]
    dropped: list[int]
    grown: list[int]


def revise(
    masks: MaskSet,
    views: Sequence[TargetView],
    strategy: Strategy,
    threshold: Threshold,
    pattern: TargetPattern,
    sparsity: float,
    exchange: float,
    written: Written,
    remember: bool,
) -> Changes:
    """Write new masks, so that as many units live as the sparsity leaves.

    With K units to live and e of them up for exchange, the threshold cuts to K - e by score, among the living, or among
    all where the strategy is latent; then e return by ``grow``. Where the schedule asks for more to live than do, the
    difference returns likewise, by chance where the strategy has no ``grow``.

    Args:
        masks: written at the end, together; an error leaves them as they were.
        views: what the strategy sees, one a target.
        strategy: with its settings of now.
        threshold: with its settings of now.
        pattern: the unit.
        sparsity: share of all units to have pruned.
        exchange: share of the living units that is exchanged.
        written: called for every target once its mask is written, with its position and its mask before.
        remember: hand over the mask before even where nothing grows; None is handed over otherwise, which saves its
            memory.

    Raises:
        NonFiniteError: a score is not finite.
    """
    scores = [_scores(masks, view, i, strategy, threshold, pattern) for i, view in enumerate(views)]
    try:
        cuts, room = _cut(scores, threshold, sparsity, exchange)
    except BaseException:
        masks.clear_scratch_bits()
        raise
    if room:
        return _exchange(masks, views, strategy, threshold, pattern, scores, cuts, room, written)

    def writings() -> Iterator[Writing]:
        for i in range(len(views)):
            before = without_scratch_bit(masks.tensors[i]) if remember else None
            yield i, _keeps(masks, i, pattern, cuts[i], scores[i]), cuts[i].kept if pattern.elementwise else None
            written(i, before)

    changes = masks.write_each(writings())
    return Changes([c.value for c in cuts], [lost for lost, _ in changes], [won for _, won in changes])


def _cut(scores: Sequence[Scores], threshold: Threshold, sparsity: float, exchange: float) -> tuple[list[Cut], int]:
    """Return the cuts, and for how many units they leave room."""
    units, keep = sum(s.units for s in scores), units_kept(scores, sparsity)
    most = sum(s.max_kept for s in scores)
    if not exchange or most == units == keep:
        cuts = threshold.cut(scores, sparsity)
        return cuts, max(keep - most, 0)
    if threshold.exact:
        lives = min(max(keep, sum(s.effective_min_kept for s in scores)), most)
    else:
        lives = sum(c.kept for c in threshold.cut(scores, sparsity))
    cuts = threshold.cut_to_count(lives - round(exchange * lives), scores)
    return cuts, max(keep, lives) - sum(c.kept for c in cuts)


def _exchange(
    masks: MaskSet,
    views: Sequence[TargetView],
    strategy: Strategy,
    threshold: Threshold,
    pattern: TargetPattern,
    scores: Sequence[Scores],
    cuts: Sequence[Cut],
    room: int,
    written: Written,
) -> Changes:
    """Write what stays, then what returns beside it."""
    every = range(len(views))
    kept_before = list(masks.kept)
    before = [without_scratch_bit(mask) for mask in masks.tensors]
    masks.write_each((i, _keeps(masks, i, pattern, cuts[i], scores[i]), None) for i in every)
    try:
        worth = [_worth(masks, views[i], i, strategy, pattern) for i in every]
        grown_cuts = threshold.select_grown(room, worth, [c.kept for c in cuts])
        masks.write_each(((i, _keeps(masks, i, pattern, grown_cuts[i], worth[i]), None) for i in every), growing=True)
    except BaseException:
        masks.clear_scratch_bits()
        masks.write_each((i, [before[i].reshape(-1)], kept_before[i]) for i in every)
        raise
    stayed = masks.count(old & new for old, new in zip(before, masks.tensors, strict=True))
    for i in every:
        written(i, before[i])
    dropped = [kept - count for kept, count in zip(kept_before, stayed, strict=True)]
    grown = [kept - count for kept, count in zip(masks.kept, stayed, strict=True)]
    return Changes([c.value for c in cuts], dropped, grown)


def _scores(
    masks: MaskSet, view: TargetView, position: int, strategy: Strategy, threshold: Threshold, pattern: TargetPattern
) -> Scores:
    def adjust(scores: Tensor, lives: Tensor) -> Tensor:
        return threshold.adjust_scores(scores, lives, view.seed, view.step)

    return scores_of(
        masks.targets[position],
        view,
        strategy.score,
        pattern,
        masks.kept[position],
        elementwise=strategy.elementwise,
        among="all" if strategy.latent else "living",
        adjust=adjust if threshold.adjusts_scores else None,
        scratch_bits=masks.scratch_bits(position),
        ranks=masks.shard_ranks,
    )


def _worth(masks: MaskSet, view: TargetView, position: int, strategy: Strategy, pattern: TargetPattern) -> Scores:
    def grow(piece: TargetView) -> Tensor:
        worth = strategy.grow(piece)
        return uniform(piece) if worth is None else worth

    return scores_of(
        masks.targets[position],
        view,
        grow,
        pattern,
        masks.kept[position],
        elementwise=strategy.elementwise,
        among="pruned",
        scratch_bits=masks.scratch_bits(position),
        ranks=masks.shard_ranks,
    )


def _keeps(masks: MaskSet, position: int, pattern: TargetPattern, cut: Cut, scores: Scores) -> Iterator[Tensor]:
    keeps = cut.keeps(scores)
    if pattern.elementwise:
        return keeps
    return iter([pattern.expand(masks.targets[position], torch.cat(list(keeps))).reshape(-1)])
