"""Whether the target sparsity is reached, and warnings at the end of a fit about what did not take effect."""

from __future__ import annotations

import warnings

from lightning_dynprune.base import is_number
from lightning_dynprune.engine import AccuracyGuard, Pruner
from lightning_dynprune.thresholds import Fixed


def is_at_target(pruner: Pruner) -> bool:
    """Return whether at most one unit is missing to the target sparsity."""
    missing = pruner.target_sparsity - pruner.sparsity
    return missing * pruner.masks.total <= pruner.unit


def warn_at_end(pruner: Pruner, guard: AccuracyGuard | None) -> None:
    """Warn if the target sparsity is missed, or if the threshold's own value has decided no cut.

    Args:
        pruner: at the end of the fit.
        guard: of the pruning, if there is one.
    """
    warn_if_short_of_target(pruner, guard)
    if isinstance(pruner.threshold, Fixed) and never_decides(pruner):
        warnings.warn(
            f"threshold fixed changed nothing: at every update, more connections scored below "
            f"theta={pruner.threshold.theta} than the schedule lets prune, so the sparsity alone decided; give a "
            "smaller theta, or threshold=topk",
            stacklevel=3,
        )


def never_decides(pruner: Pruner) -> bool:
    """Return whether each recorded cut of a pruner with the threshold ``fixed`` lies below its ``theta``."""
    theta = pruner.threshold.theta if isinstance(pruner.threshold, Fixed) else None
    if pruner.journal is None or not is_number(theta):
        return False
    cuts = [value for update in pruner.journal.updates for value in update.cuts.values()]
    return bool(cuts) and all(value < float(theta) for value in cuts)  # type: ignore[arg-type]


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
