"""The record of an update, in the journal and in the progress of the run; and the check that all processes agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_dynprune.distributed import mask_checksum
from lightning_dynprune.engine.updates.mask_update import Changes
from lightning_dynprune.journal import Delta, Update

if TYPE_CHECKING:
    from lightning_dynprune.engine.run import PruningRun


def new_update(run: PruningRun, sparsity: float, changes: Changes) -> Update:
    """Return the figures of an update whose masks have been written.

    Args:
        run: what was pruned.
        sparsity: the share of connections that was asked for.
        changes: what changed in each target.
    """
    names = [target.name for target in run.masks.targets]
    return Update(
        run.progress.clock.step,
        sparsity,
        run.masks.sparsity,
        dict(zip(names, changes.dropped, strict=True)),
        dict(zip(names, changes.grown, strict=True)),
        (sum(changes.dropped) + sum(changes.grown)) / run.masks.total,
        dict(zip(names, changes.cuts, strict=False)),  # a restored mask has no cuts
    )


def record_update(run: PruningRun, update: Update, deltas: Sequence[Delta], note: str | None = None) -> None:
    """Count an update and write it to the journal; a second call for the same update does nothing.

    Args:
        run: what was pruned.
        update: its figures.
        deltas: the changed positions of each target.
        note: goes into the journal, before the update.
    """
    is_sharded = run.masks.shard_ranks is not None
    run.progress.count_update(update)
    if run.journal is None:
        return
    run.journal.add(update, None if is_sharded else deltas, note)
    if is_sharded:
        reason = "several processes hold parts of the targets: positions are not kept"
        run.journal.discard_positions(update.step, reason)


def check_ranks_agree(run: PruningRun, error: Exception | None = None) -> None:
    """Raise where processes hold different masks, or one of them met an error after it had written them.

    Args:
        run: what was pruned.
        error: of this process; None: none.

    Raises:
        RankError: naming the target and the processes, or quoting the error of another process.
    """
    if run.ranks.size == 1:
        return
    sums = [mask_checksum(mask) for mask in run.masks.tensors]
    names = [f"mask of {target.name}" for target in run.masks.targets]
    places = [0 if t.shard is None else t.shard.box_id for t in run.masks.targets]
    # Parts have no copies to be compared with: their scores agree where the seeds do.
    if run.masks.shard_ranks is not None:
        names, sums, places = [*names, "seed"], [*sums, run.views.seed], [*places, 0]
    run.ranks.check_equal(names, sums, places, error)
