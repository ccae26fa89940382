"""Masks of an earlier step, brought back from the journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_dynprune.engine.updates.mask_update import Changes
from lightning_dynprune.engine.updates.record import check_ranks_agree, new_update, record_update
from lightning_dynprune.engine.updates.run_update import clear_slots
from lightning_dynprune.engine.updates.savepoint import Savepoint, finish
from lightning_dynprune.journal import Delta, Update
from lightning_dynprune.masks import without_scratch_bit

if TYPE_CHECKING:
    from lightning_dynprune.engine.run import PruningRun


def restore_masks(run: PruningRun, step: int) -> Update:
    """Bring back the masks of an earlier step, and the values that were cut since if the journal remembers them.

    Args:
        run: what is pruned.
        step: optimizer steps done at the moment to return to.

    Raises:
        ValueError: there is no journal, it does not reach back so far, or several processes hold parts of targets.
    """
    masks, journal = run.masks, run.journal
    if journal is None:
        raise ValueError("journal=False: nothing was recorded to restore; give journal=True")
    if masks.shard_ranks is not None:
        raise ValueError(
            "restore: several processes hold parts of the targets, so that no positions were recorded to go back "
            "to; train by DDP to restore masks"
        )
    savepoint: Savepoint | None = None
    update: Update | None = None
    deltas: list[Delta] = []
    try:
        with run.ranks.raise_together():
            run.held_errors.raise_own()
            wanted = journal.mask_at(step)
            values = journal.values_at(step) if journal.remember_values and not run.weights.all_train else {}
            run.apply()
            savepoint = Savepoint(run)
            changes = _write_masks(run, wanted, values, deltas)
        update = new_update(run, masks.sparsity, changes)
        note = f"masks restored to what they were after step {step}"
        finish(
            [
                lambda: record_update(run, update, deltas, note),
                run.apply,
                lambda: clear_slots(run, savepoint, changes),
            ]
        )
    except BaseException as error:
        if savepoint is not None and (update is None or run.progress.last_update is not update):
            savepoint.restore()
        if update is not None and isinstance(error, Exception):
            check_ranks_agree(run, error)
        raise
    check_ranks_agree(run)
    return update


def _write_masks(
    run: PruningRun,
    wanted: Mapping[str, Tensor],
    values: Mapping[str, tuple[Tensor, Tensor]],
    deltas: list[Delta],
) -> Changes:
    """Write masks and, where connections return, the values they had; changed positions are added to ``deltas``."""
    masks = run.masks
    run.weights.reveal(range(len(masks.targets)))
    dropped, grown = [], []
    for position, target in enumerate(masks.targets):
        before = without_scratch_bit(masks.tensors[position])
        lost, won = masks.write(position, [wanted[target.name].to(before.device).reshape(-1)])
        dropped.append(lost)
        grown.append(won)
        if run.journal is not None:
            deltas.append(run.journal.delta(before, masks.tensors[position], target.values))
        if target.name in values:
            index, kept = values[target.name]
            flat = target.parameter.detach().reshape(-1)
            flat[index.to(flat.device)] = kept.to(flat)
            target.parameter.copy_(flat.view_as(target.parameter))
    run.units.follow_masks()
    return Changes([], dropped, grown)
