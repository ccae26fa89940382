"""From a target to the scores of its units, as strategy and pattern make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from lightning_dynprune.distributed import Ranks
from lightning_dynprune.masks import without_scratch_bit
from lightning_dynprune.patterns import TargetPattern
from lightning_dynprune.selection import Scores
from lightning_dynprune.targets import Target, TargetView

_PIECE = 2**19  # entries scored at once on a CPU: the intermediate results stay in cache
_PIECE_ON_DEVICE = 2**26  # on an accelerator: few launches and few host syncs

Adjust = Callable[[Tensor, Tensor], Tensor]


def scores_of(
    target: Target,
    view: TargetView,
    score: Callable[[TargetView], Tensor],
    pattern: TargetPattern,
    kept: int,
    *,
    elementwise: bool,
    among: str = "living",
    adjust: Adjust | None = None,
    scratch_bits: Tensor | None = None,
    ranks: Ranks | None = None,
) -> Scores:
    """Return the scores of one target, one a unit, made on demand.

    Where strategy and pattern are elementwise the target is scored in pieces, each time it is asked for; otherwise once
    and whole.

    Args:
        target: what is scored.
        view: what the strategy sees of it.
        score: makes one score a connection.
        pattern: what the units are.
        kept: how many connections the mask keeps.
        elementwise: ``score`` looks at no neighbours.
        among: which units are candidates: "living", "pruned" or "all".
        adjust: changes the scores of units, given which of them live.
        scratch_bits: the mask's memory, see :meth:`~lightning_dynprune.masks.mask_set.MaskSet.scratch_bits`.
        ranks: the processes that hold the target's scores together; None: all of them are here.
    """
    protected = None
    everything = among == "all" or (among == "living" and kept == target.numel)

    def candidates_of(lives: Tensor) -> Tensor | None:
        return None if everything else lives if among == "living" else ~lives

    if elementwise and pattern.elementwise:
        flat, units = view.flat(), target.numel
        candidates = units if everything else kept if among == "living" else units - kept

        def scored(piece: TargetView) -> tuple[Tensor, Tensor | None]:
            scores = score(piece)
            if everything and adjust is None:
                return scores, None
            lives = without_scratch_bit(piece.mask)
            return scores if adjust is None else adjust(scores, lives), candidates_of(lives)

        def pieces() -> Iterator[tuple[Tensor, Tensor | None]]:
            return (scored(flat.piece(start, stop)) for start, stop in pieces_of(target))

        def sample(index: Tensor) -> tuple[Tensor, Tensor | None]:
            return scored(flat.gather(index))
    else:
        scratch_bits = None
        lives = pattern.pool(target, view.mask.float()) > 0
        whole = pattern.pool(target, score(view))
        if adjust is not None:
            whole = adjust(whole, lives)
        units, among_these = whole.numel(), candidates_of(lives)
        protected = None if among == "pruned" else pattern.protected_units(target, whole, among_these)
        if protected is not None:
            among_these = ~protected if among_these is None else among_these & ~protected
        candidates = units if among_these is None else int(among_these.sum())

        def pieces() -> Iterator[tuple[Tensor, Tensor | None]]:
            yield whole, among_these

        def sample(index: Tensor) -> tuple[Tensor, Tensor | None]:
            return whole[index], None if among_these is None else among_these[index]

    return Scores(
        target.name,
        units,
        candidates,
        pieces,
        sample,
        min_kept=0 if among == "pruned" else target.min_kept,
        protected=protected,
        num_protected=0 if protected is None else int(protected.sum()),
        size=pattern.size,
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


def pieces_of(target: Target) -> Iterator[tuple[int, int]]:
    """Yield the bounds of the pieces in which a target is read."""
    size, here = piece_size(target), target.values.numel()
    return ((start, min(start + size, here)) for start in range(0, here, size))


def piece_size(target: Target) -> int:
    """Return how many entries of a target are read at once, at most."""
    return _PIECE if target.parameter.device.type == "cpu" else _PIECE_ON_DEVICE
