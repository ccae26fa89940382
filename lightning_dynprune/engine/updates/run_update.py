"""One update of a run: check, score and cut, write the masks, apply them, record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lightning_dynprune.engine.updates.mask_update import Changes, UpdateRequest
from lightning_dynprune.engine.updates.record import follow_mask, record_update
from lightning_dynprune.journal import Delta, Update
from lightning_dynprune.selection import check_finite

if TYPE_CHECKING:
    from lightning_dynprune.engine.run import PruningRun


def update_run(run: PruningRun, request: UpdateRequest, keeps_inputs: bool, stacklevel: int) -> Update:
    """Update the masks of a run, now.

    Args:
        run: what is pruned.
        request: the parts and the sparsity to reach.
        keeps_inputs: the inputs of layers that were captured are read by the next update too.
        stacklevel: of warnings, seen from the caller.

    Raises:
        NonFiniteError: a score or weight is not finite; masks and weights are as they were.
        RuntimeError: the strategy reads gradients or inputs and there are none; likewise.
        RankError: another process failed; or the processes hold different masks, which the update has changed.
    """
    _check_ready(run, request, stacklevel + 1)
    before = run.units.min_kept()
    deltas: list[Delta] = []
    changes = _change_masks(run, request, deltas)
    # Nothing can fail from here on, so masks and weights change together or not at all.
    run.apply()
    if run.rewind is not None:
        run.rewind.restore(run.plan.optimizers)
        run.apply()
    run.snapshot.clear()
    if not keeps_inputs:
        run.calibrator.forget()
    run.min_kept_warnings.warn(before, run.units.min_kept(), stacklevel + 1)
    return record_update(run, request.sparsity, changes, deltas)


def _check_ready(run: PruningRun, request: UpdateRequest, stacklevel: int) -> None:
    """Raise where what the update reads is not there, after processes have added up what they captured."""
    run.calibrator.sum_ranks(run.ranks)
    run.calibrator.check()
    if request.sparsity:
        run.observer.check(stacklevel + 1)
    run.units.check_ready()


def _change_masks(run: PruningRun, request: UpdateRequest, deltas: list[Delta]) -> Changes:
    """Score, cut and write the masks; where that fails the run is as before."""

    def mask_changed(position: int, before: Tensor | None) -> None:
        follow_mask(run, position, before, deltas)
        run.calibrator.refit(position)

    # The step moved pruned entries too; what grows starts at zero.
    run.apply()
    run.weights.reveal(range(len(run.masks.targets)))
    try:
        with run.ranks.raise_together():
            for target in run.masks.targets:
                check_finite(target.values, f"weights of {target.name}")
        # A mask that only shrinks, and is not recorded, tells all that is needed by itself.
        remember = run.journal is not None and run.masks.shard_ranks is None
        return run.units.update_masks(run.views.all(), request, mask_changed, remember)
    except BaseException:
        run.apply()
        raise
