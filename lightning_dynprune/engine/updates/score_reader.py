"""The scores of a target's units, as strategy and pattern make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from lightning_dynprune.distributed import Ranks
from lightning_dynprune.masks import without_scratch_bit
from lightning_dynprune.patterns import TargetPattern
from lightning_dynprune.selection import Scores
from lightning_dynprune.targets import Target, TargetView

_PIECE = 2**19  # entries scored at once on a CPU: the intermediate results stay in cache
_PIECE_ON_DEVICE = 2**26  # on an accelerator: few launches and few host syncs

Score = Callable[[TargetView], Tensor]
Adjust = Callable[[Tensor, Tensor], Tensor]


def scores_of(
    target: Target,
    view: TargetView,
    score: Score,
    pattern: TargetPattern,
    kept: int,
    *,
    elementwise: bool,
    among: str = "living",
    adjust: Adjust | None = None,
    scratch_bits: Tensor | None = None,
    ranks: Ranks | None = None,
) -> Scores:
    """Return the scores of one target's units, made on demand.

    Where strategy and pattern are elementwise the target is scored in pieces, each time it is asked for; otherwise once
    and whole.

    Args:
        target: the target.
        view: of the target.
        score: makes one score a connection.
        pattern: the unit.
        kept: how many connections the mask keeps.
        elementwise: the score of a connection depends on that connection alone.
        among: which units are candidates: "living", "pruned" or "all".
        adjust: changes the scores of units, given which of them are kept.
        scratch_bits: of the mask, see :meth:`~lightning_dynprune.masks.mask_set.MaskSet.scratch_bits`.
        ranks: the processes that hold the target's scores together; None: all of them are here.
    """
    everything = among == "all" or (among == "living" and kept == target.numel)
    if elementwise and pattern.elementwise:
        made = _by_pieces(target, view, score, kept, everything, among, adjust)
    else:
        scratch_bits = None
        made = _at_once(target, view, score, pattern, everything, among, adjust)
    return Scores(
        target.name,
        made.units,
        made.candidates,
        made.pieces,
        made.sample,
        min_kept=0 if among == "pruned" else target.min_kept,
        protected=made.protected,
        num_protected=0 if made.protected is None else int(made.protected.sum()),
        size=pattern.unit_size(target),
        num_uncovered=pattern.num_uncovered(target),
        device=target.parameter.device,
        shape=tuple(target.parameter.shape),
        sparsity=target.sparsity,
        scratch_bits=scratch_bits,
        memory=target.memory,
        ranks=ranks,
        shard=target.shard,
        seed=view.seed,
        step=view.step,
    )


@dataclass(frozen=True)
class _Made:
    """The functions that make the scores of one target, see :class:`~lightning_dynprune.selection.scores.Scores`."""

    units: int
    candidates: int
    pieces: Callable[[], Iterator[tuple[Tensor, Tensor | None]]]
    sample: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    protected: Tensor | None = None


def _by_pieces(
    target: Target, view: TargetView, score: Score, kept: int, everything: bool, among: str, adjust: Adjust | None
) -> _Made:
    """Score piece by piece, each time the scores are asked for."""
    flat, units = view.flat(), target.numel
    candidates = units if everything else kept if among == "living" else units - kept

    def scored(piece: TargetView) -> tuple[Tensor, Tensor | None]:
        scores = score(piece)
        if everything and adjust is None:
            return scores, None
        lives = without_scratch_bit(piece.mask)
        chosen = None if everything else lives if among == "living" else ~lives
        return scores if adjust is None else adjust(scores, lives), chosen

    def pieces() -> Iterator[tuple[Tensor, Tensor | None]]:
        return (scored(flat.piece(start, stop)) for start, stop in pieces_of(target))

    return _Made(units, candidates, pieces, lambda index: scored(flat.gather(index)))


def _at_once(
    target: Target,
    view: TargetView,
    score: Score,
    pattern: TargetPattern,
    everything: bool,
    among: str,
    adjust: Adjust | None,
) -> _Made:
    """Score the whole target now, and pool the scores to units."""
    lives = pattern.pool(target, view.mask.float()) > 0
    scores = pattern.pool(target, score(view))
    if adjust is not None:
        scores = adjust(scores, lives)
    chosen = None if everything else lives if among == "living" else ~lives
    protected = None if among == "pruned" else pattern.protected_units(target, scores, chosen)
    if protected is not None:
        chosen = ~protected if chosen is None else chosen & ~protected
    return _Made(
        scores.numel(),
        scores.numel() if chosen is None else int(chosen.sum()),
        lambda: iter([(scores, chosen)]),
        lambda index: (scores[index], None if chosen is None else chosen[index]),
        protected,
    )


def pieces_of(target: Target) -> Iterator[tuple[int, int]]:
    """Yield the bounds of the pieces in which a target is scored."""
    size, here = piece_size(target), target.values.numel()
    return ((start, min(start + size, here)) for start in range(0, here, size))


def piece_size(target: Target) -> int:
    """Return how many entries of a target are scored at once, at most."""
    return _PIECE if target.parameter.device.type == "cpu" else _PIECE_ON_DEVICE
