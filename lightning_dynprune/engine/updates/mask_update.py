"""New masks for units that lie in one target each: score, cut, exchange, write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynprune.engine.updates.score_reader import scores_of
from lightning_dynprune.masks import MaskSet, without_scratch_bit
from lightning_dynprune.patterns import TargetPattern
from lightning_dynprune.selection import Cut, Scores, nearest_count
from lightning_dynprune.strategies import Strategy, uniform_scores
from lightning_dynprune.targets import TargetView
from lightning_dynprune.thresholds import Threshold, connections_to_keep, units_to_keep

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
        changes = _exchange(masks, views, pattern, request, scores, cuts, room)
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
    units, keep = sum(s.units for s in scores), units_to_keep(scores, request.sparsity, threshold.cut_to_count)
    most = sum(s.max_kept for s in scores)
    if not exchange or most == units == keep:
        cuts = threshold.cut(scores, request.sparsity)
        return cuts, max(keep - most, 0) or _lacks_units(scores, request.sparsity)
    if threshold.exact:
        kept = min(max(keep, sum(s.effective_min_kept for s in scores)), most)
    else:
        kept = sum(c.kept for c in threshold.cut(scores, request.sparsity))
    cuts = threshold.cut_for_exchange(kept, exchange, scores)
    return cuts, max(keep, kept) - sum(c.kept for c in cuts)


def _lacks_units(scores: Sequence[Scores], sparsity: float) -> int:
    """Return 1 where units of different sizes are too few for a sparsity; how many return depends on which."""
    if len({s.size for s in scores}) <= 1:
        return 0
    living = sum(s.max_kept * s.size for s in scores)
    return int(living + min(s.size for s in scores) / 2 <= connections_to_keep(scores, sparsity))


def _growing_count(room: int, worth: Sequence[Scores], kept: Sequence[int], threshold: Threshold, wanted: float) -> int:
    """Return how many units return: ``room``, or where they differ in size those that bring the connections wanted.

    Args:
        room: number of units, if all are of one size.
        worth: the scores by which they return.
        kept: number of units kept already, per target.
        threshold: distributes them over targets.
        wanted: number of connections kept in units afterwards.
    """
    if len({s.size for s in worth}) <= 1:
        return room

    def connections(count: int) -> int:
        cuts = threshold.select_grown(count, worth, kept)
        return sum((k + c.kept) * s.size for k, c, s in zip(kept, cuts, worth, strict=True))

    return nearest_count(sum(s.candidates for s in worth), connections, wanted)


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
    request: UpdateRequest,
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
        worth = [_growth_scores(masks, views[i], i, request.strategy, pattern) for i in every]
        stay, wanted = [c.kept for c in cuts], connections_to_keep(scores, request.sparsity)
        count = _growing_count(room, worth, stay, request.threshold, wanted)
        grown_cuts = request.threshold.select_grown(count, worth, stay)
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
