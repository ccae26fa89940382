"""From a target to the scores of its units, as strategy and pattern make them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lightning_dynprune.masks import undrafted
from lightning_dynprune.patterns import Pattern
from lightning_dynprune.scores import Scores
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import Target, TargetView

_PIECE = 2**19  # entries scored at once on a CPU: the intermediate results stay in cache
_PIECE_ON_DEVICE = 2**26  # on an accelerator: few launches and few host syncs


def scores_of(
    target: Target, strategy: Strategy, pattern: Pattern, mask: Tensor, kept: int, draft: Tensor | None, seed: int
) -> Scores:
    """Return the scores of a target's units: made piece by piece where strategy and pattern allow, else whole.

    Args:
        target: the target.
        strategy: scores its connections.
        pattern: says what its units are.
        mask: its mask; only what is kept is a candidate to stay.
        kept: how many connections the mask keeps.
        draft: the mask's memory, see :meth:`~lightning_dynprune.masks.MaskSet.draft`.
        seed: of strategies that draw.
    """
    view = target.view(mask, seed)
    all_live = kept == target.numel
    by_piece = strategy.elementwise and pattern.elementwise
    if by_piece:
        flat, units, candidates = view.flat(), target.numel, kept

        def score(piece: TargetView) -> tuple[Tensor, Tensor | None]:
            return strategy.score(piece), None if all_live else undrafted(piece.mask)

        def pieces() -> Iterator[tuple[Tensor, Tensor | None]]:
            return (score(flat.piece(start, stop)) for start, stop in pieces_of(target))

        def sample(index: Tensor) -> tuple[Tensor, Tensor | None]:
            return score(flat.gather(index))
    else:
        living = None if all_live else pattern.pool(target, mask.float()) > 0
        whole = pattern.pool(target, strategy.score(view))
        units = whole.numel()
        candidates = units if living is None else int(living.sum())

        def pieces() -> Iterator[tuple[Tensor, Tensor | None]]:
            yield whole, living

        def sample(index: Tensor) -> tuple[Tensor, Tensor | None]:
            return whole[index], None if living is None else living[index]

    return Scores(
        target.name,
        units,
        candidates,
        pieces,
        sample,
        min_kept=target.min_kept,
        device=target.parameter.device,
        shape=tuple(target.parameter.shape),
        share=target.sparsity,
        draft=draft if by_piece else None,
    )


def pieces_of(target: Target) -> Iterator[tuple[int, int]]:
    """Yield the bounds of the pieces in which a target is read."""
    size = _PIECE if target.parameter.device.type == "cpu" else _PIECE_ON_DEVICE
    return ((start, min(start + size, target.numel)) for start in range(0, target.numel, size))
