"""New masks for units that lie in one target each: score, cut, exchange, write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynprune.engine.updates.score_reader import scores_of
from lightning_dynprune.masks import MaskSet, without_scratch_bit
from lightning_dynprune.patterns import TargetPattern
from lightning_dynprune.selection import Cut, Scores
from lightning_dynprune.strategies import Strategy, uniform_scores
from lightning_dynprune.targets import TargetView
from lightning_dynprune.thresholds import Threshold, units_to_keep

MaskChanged = Callable[[int, "Tensor | None"], None]
MaskPieces = tuple[int, Iterable[Tensor], "int | None"]


@dataclass(frozen=True)
class UpdateRequest:
    """The sparsity that an update has to reach, and the parts that decide how.

    Attributes:
        strategy: scores connections; its settings are numbers.
        threshold: decides the cut; likewise.
        sparsity: share of all units to have pruned.
        exchange: share of the kept units that is exchanged.
    """

    strategy: Strategy
    threshold: Threshold
    sparsity: float
    exchange: float = 0.0


@dataclass(frozen=True)
class Changes:
    """The changes of an update, one entry per target.

    Attributes:
        cuts: the score at the cut.
        dropped: connections pruned.
        grown: connections returned.
    """

    cuts: list[float]
    dropped: list[int]
    grown: list[int]


def update_masks(
    masks: MaskSet,
    views: Sequence[TargetView],
    pattern: TargetPattern,
    request: UpdateRequest,
    mask_changed: MaskChanged,
    remember: bool,
) -> Changes:
    """Write new masks, so that as many units are kept as the sparsity leaves.

    With K units to keep and e of them up for exchange, the threshold cuts to K - e by score (of each target its own
    share, where the threshold's scope is per target), among the kept units, or among all where the strategy is latent;
    then e return by ``grow``. Where the schedule asks for more units than are
    kept, the difference returns likewise, at random where the strategy has no ``grow``.

    Args:
        masks: written at the end, together; an error leaves them as they were.
        views: of the targets.
        pattern: the unit.
        request: the parts and the sparsity to reach.
        mask_changed: called for every target once its mask is written, with its position and its mask before.
        remember: pass the mask before even where nothing grows; otherwise None is passed, which saves its memory.

    Raises:
        NonFiniteError: a score is not finite.
    """
    scores = [_scores(masks, view, i, request, pattern) for i, view in enumerate(views)]
    try:
        cuts, room = _decide(scores, request)
    except BaseException:
        masks.clear_scratch_bits()
        raise
    if room:
        changes = _exchange(masks, views, pattern, request.strategy, request.threshold, scores, cuts, room)
        for position, before in enumerate(changes.before):
            mask_changed(position, before)
        return Changes([cut.value for cut in cuts], changes.dropped, changes.grown)

    def pieces() -> Iterator[MaskPieces]:
        for i in range(len(views)):
            before = without_scratch_bit(masks.tensors[i]) if remember else None
            yield i, _kept(masks, i, pattern, cuts[i], scores[i]), cuts[i].kept if pattern.elementwise else None
            mask_changed(i, before)

    written = masks.write_each(pieces())
    return Changes([cut.value for cut in cuts], [lost for lost, _ in written], [won for _, won in written])


def _decide(scores: Sequence[Scores], request: UpdateRequest) -> tuple[list[Cut], int]:
    """Return the cuts, and how many units return after them."""
    threshold, exchange = request.threshold, request.exchange
    units, keep = sum(s.units for s in scores), units_to_keep(scores, request.sparsity)
    most = sum(s.max_kept for s in scores)
    if not exchange or most == units == keep:
        cuts = threshold.cut(scores, request.sparsity)
        return cuts, max(keep - most, 0)
    if threshold.exact:
        kept = min(max(keep, sum(s.effective_min_kept for s in scores)), most)
    else:
        kept = sum(c.kept for c in threshold.cut(scores, request.sparsity))
    cuts = threshold.cut_for_exchange(kept, exchange, scores)
    return cuts, max(keep, kept) - sum(c.kept for c in cuts)


@dataclass(frozen=True)
class _Exchanged:
    """The masks before an exchange, and the connections that it dropped and grew in each target."""

    before: list[Tensor]
    dropped: list[int]
    grown: list[int]


def _exchange(
    masks: MaskSet,
    views: Sequence[TargetView],
    pattern: TargetPattern,
    strategy: Strategy,
    threshold: Threshold,
    scores: Sequence[Scores],
    cuts: Sequence[Cut],
    room: int,
) -> _Exchanged:
    """Write the units that stay, then those that return beside them; an error leaves the masks as they were."""
    every = range(len(views))
    kept_before = list(masks.kept)
    before = [without_scratch_bit(mask) for mask in masks.tensors]
    masks.write_each((i, _kept(masks, i, pattern, cuts[i], scores[i]), None) for i in every)
    try:
        worth = [_growth_scores(masks, views[i], i, strategy, pattern) for i in every]
        grown_cuts = threshold.select_grown(room, worth, [c.kept for c in cuts])
        masks.write_each(((i, _kept(masks, i, pattern, grown_cuts[i], worth[i]), None) for i in every), growing=True)
    except BaseException:
        masks.clear_scratch_bits()
        masks.write_each((i, [before[i].reshape(-1)], kept_before[i]) for i in every)
        raise
    stayed = masks.count(old & new for old, new in zip(before, masks.tensors, strict=True))
    dropped = [kept - count for kept, count in zip(kept_before, stayed, strict=True)]
    grown = [kept - count for kept, count in zip(masks.kept, stayed, strict=True)]
    return _Exchanged(before, dropped, grown)


def _scores(masks: MaskSet, view: TargetView, position: int, request: UpdateRequest, pattern: TargetPattern) -> Scores:
    """Return the scores of one target's units, by which the cut is decided."""
    strategy, threshold = request.strategy, request.threshold

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


def _growth_scores(
    masks: MaskSet, view: TargetView, position: int, strategy: Strategy, pattern: TargetPattern
) -> Scores:
    """Return the scores of one target's pruned units, by which they return."""

    def grow(piece: TargetView) -> Tensor:
        worth = strategy.grow(piece)
        return uniform_scores(piece) if worth is None else worth

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


def _kept(masks: MaskSet, position: int, pattern: TargetPattern, cut: Cut, scores: Scores) -> Iterator[Tensor]:
    """Yield the mask of one target after a cut, flat, in pieces."""
    keeps = cut.keeps(scores)
    if pattern.elementwise:
        return keeps
    return iter([pattern.expand(masks.targets[position], torch.cat(list(keeps))).reshape(-1)])
