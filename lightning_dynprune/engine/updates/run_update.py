"""One update of a run: check, score and cut, write the masks, apply them, record. It happens whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lightning_dynprune.engine.updates.mask_update import Changes, UpdateRequest
from lightning_dynprune.engine.updates.record import check_ranks_agree, new_update, record_update
from lightning_dynprune.engine.updates.savepoint import Savepoint, finish
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
    savepoint: Savepoint | None = None
    update: Update | None = None
    warnings: list[str] = []
    deltas: list[Delta] = []
    _sum_inputs(run)
    try:
        # Where parameters are sharded the changes send messages themselves, and each part of them raises in all.
        is_sharded = run.masks.shard_ranks is not None
        with run.ranks.raise_together():
            _check_ready(run, request, stacklevel + 1)
            # The step moved pruned entries too; what grows starts at zero.
            run.apply()
            before, savepoint = run.units.min_kept(), Savepoint(run)
            _check_weights(run)
            changes = None if is_sharded else _change_masks(run, request, deltas)
        if changes is None:
            changes = _change_masks(run, request, deltas)
        update = new_update(run, request.sparsity, changes)

        def forget_inputs() -> None:
            run.snapshot.clear()
            if not keeps_inputs:
                run.calibrator.forget()

        finish(
            [
                lambda: record_update(run, update, deltas),
                run.apply,
                lambda: clear_slots(run, savepoint, changes),
                lambda: _rewind(run),
                forget_inputs,
                lambda: warnings.extend(run.min_kept_warnings.add(before, run.units.min_kept())),
            ]
        )
    except BaseException as error:
        if savepoint is not None and (update is None or run.progress.last_update is not update):
            savepoint.restore()
        if update is not None and isinstance(error, Exception):
            check_ranks_agree(run, error)
        raise
    run.min_kept_warnings.warn(warnings, stacklevel + 1)
    check_ranks_agree(run)
    return update


def clear_slots(run: PruningRun, savepoint: Savepoint, changes: Changes) -> None:
    """Clear the optimizers' slots of connections that are pruned or have just returned.

    Args:
        run: whose masks have been written.
        savepoint: of before the update.
        changes: what changed in each target.
    """
    for position, grown in enumerate(changes.grown):
        run.weights.mask_changed(position, savepoint.mask(position) if grown else None)
    run.units.clear_slots()


def _rewind(run: PruningRun) -> None:
    """Bring back the weights of an early step, if the run rewinds."""
    if run.rewind is not None:
        run.rewind.restore(run.plan.optimizers)
        run.apply()


def _sum_inputs(run: PruningRun) -> None:
    """Add up the inputs that processes captured, if the update reads any."""
    if run.ranks.size > 1 and run.calibrator.is_needed:
        with run.ranks.raise_together():
            run.held_errors.raise_own()
        run.calibrator.sum_ranks(run.ranks)


def _check_ready(run: PruningRun, request: UpdateRequest, stacklevel: int) -> None:
    """Raise what was held until this update, and where something that the update reads is not there."""
    run.held_errors.raise_own()
    run.check_not_joining()
    run.check_attached()
    run.calibrator.check()
    if request.sparsity:
        run.observer.check(stacklevel + 1)
    run.units.check_ready()


def _check_weights(run: PruningRun) -> None:
    """Raise where a weight is not finite, with latent weights in their place."""
    run.weights.reveal(range(len(run.masks.targets)))
    for target in run.masks.targets:
        check_finite(target.values, f"weights of {target.name}")


def _change_masks(run: PruningRun, request: UpdateRequest, deltas: list[Delta]) -> Changes:
    """Score, cut and write the masks; the pruned entries of the weights keep their values for now."""

    def mask_changed(position: int, before: Tensor | None) -> None:
        if run.journal is not None and before is not None and run.masks.shard_ranks is None:
            deltas.append(run.journal.delta(before, run.masks.tensors[position], run.masks.targets[position].values))
        run.calibrator.refit(position)

    # A mask that only shrinks, and is not recorded, tells all that is needed by itself.
    remember = run.journal is not None and run.masks.shard_ranks is None
    return run.units.update_masks(run.views.all(), request, mask_changed, remember)
