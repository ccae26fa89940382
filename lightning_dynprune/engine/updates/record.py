"""The record of an update, in the journal and in the progress of the run; and the check that all processes agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_dynprune.distributed import mask_checksum
from lightning_dynprune.engine.updates.mask_update import Changes
from lightning_dynprune.journal import Delta, Update

if TYPE_CHECKING:
    from lightning_dynprune.engine.run import PruningRun


def follow_mask(run: PruningRun, position: int, before: Tensor | None, deltas: list[Delta]) -> None:
    """Follow a mask that has been written: note the change, and clear the optimizers' slots.

    Args:
        run: what is pruned.
        position: of the target, whose parameter still holds its values of before.
        before: the mask of before; None where connections were only pruned and no journal records them.
        deltas: of the targets so far; the change is added.
    """
    if run.journal is not None and before is not None and run.masks.shard_ranks is None:
        deltas.append(run.journal.delta(before, run.masks.tensors[position], run.masks.targets[position].values))
    run.weights.mask_changed(position, before)


def record_update(run: PruningRun, sparsity: float, changes: Changes, deltas: Sequence[Delta]) -> Update:
    """Count an update, write it to the journal and compare the masks of all processes.

    Args:
        run: what was pruned.
        sparsity: the share of connections that was asked for.
        changes: what changed in each target.
        deltas: the changed positions of each target.

    Raises:
        RankError: processes hold different masks.
    """
    names = [target.name for target in run.masks.targets]
    update = Update(
        run.progress.clock.step,
        sparsity,
        run.masks.sparsity,
        dict(zip(names, changes.dropped, strict=True)),
        dict(zip(names, changes.grown, strict=True)),
        (sum(changes.dropped) + sum(changes.grown)) / run.masks.total,
        dict(zip(names, changes.cuts, strict=False)),  # a restored mask has no cuts
    )
    run.progress.count_update(update)
    is_sharded = run.masks.shard_ranks is not None
    if run.journal is not None:
        run.journal.add(update, None if is_sharded else deltas)
        if is_sharded:
            reason = "several processes hold parts of the targets: positions are not kept"
            run.journal.discard_positions(update.step, reason)
    _check_ranks_agree(run)
    return update


def _check_ranks_agree(run: PruningRun) -> None:
    """Raise where processes hold different masks."""
    if run.ranks.size == 1:
        return
    sums = [mask_checksum(mask) for mask in run.masks.tensors]
    names = [f"mask of {target.name}" for target in run.masks.targets]
    places = [0 if t.shard is None else t.shard.box_id for t in run.masks.targets]
    # Parts have no copies to be compared with: their scores agree where the seeds do.
    if run.masks.shard_ranks is not None:
        names, sums, places = [*names, "seed"], [*sums, run.views.seed], [*places, 0]
    run.ranks.check_equal(names, sums, places)
