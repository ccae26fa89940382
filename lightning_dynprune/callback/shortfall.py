"""Whether the target sparsity is reached, and a warning at the end of a fit that has not reached it."""

from __future__ import annotations

import warnings

from lightning_dynprune.engine import AccuracyGuard, Pruner


def is_at_target(pruner: Pruner) -> bool:
    """Return whether at most one unit is missing to the target sparsity."""
    missing = pruner.target_sparsity - pruner.sparsity
    return missing * pruner.masks.total <= pruner.unit


def warn_if_short_of_target(pruner: Pruner, guard: AccuracyGuard | None) -> None:
    """Warn if more than one unit is missing to the target sparsity, and say why.

    Args:
        pruner: at the end of the fit.
        guard: of the pruning, if there is one.
    """
    if not is_at_target(pruner):
        warnings.warn(
            f"sparsity {pruner.sparsity:.4f} is short of the target {pruner.target_sparsity:.4f}: "
            f"{_reason(pruner, guard)}",
            stacklevel=3,
        )


def _reason(pruner: Pruner, guard: AccuracyGuard | None) -> str:
    if guard is not None and pruner.paused and pruner.journal is not None and pruner.journal.notes:
        return f"the guard held it ({pruner.journal.notes[-1][1]})"
    if pruner.has_ended:
        return f"threshold {type(pruner.threshold).__name__} and min_kept pruned no more"
    return f"training ended at step {pruner.clock.step}, before the schedule did ({pruner.schedule.span})"
