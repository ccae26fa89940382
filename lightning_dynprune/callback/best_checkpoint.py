"""A warning about checkpoints that would keep the least pruned weights as the best."""

from __future__ import annotations

import warnings
from typing import Any

from lightning_dynprune.callback.compat import callbacks_of, monitored_save_interval
from lightning_dynprune.callback.pruned_checkpoint import PrunedCheckpoint
from lightning_dynprune.engine import Pruner


def warn_of_best_while_pruning(trainer: Any, pruner: Pruner, steps_per_epoch: int | None) -> None:
    """Warn if a ``ModelCheckpoint`` with a ``monitor`` could save before the schedule ends.

    Its best weights would then be the most accurate, which are the least pruned.

    Args:
        trainer: in ``on_fit_start``.
        pruner: of the fit, with its state loaded.
        steps_per_epoch: optimizer steps of an epoch; None: not known.
    """
    if pruner.has_ended or trainer.fast_dev_run:
        return
    for callback in callbacks_of(trainer):
        if isinstance(callback, PrunedCheckpoint) or (every := monitored_save_interval(callback)) is None:
            continue
        if _saves_before_end(trainer, pruner, every, steps_per_epoch):
            mode = f", mode={callback.mode!r}" if callback.mode != "min" else ""
            warnings.warn(
                f"{type(callback).__name__}(monitor={callback.monitor!r}) may save before the schedule ends"
                f"{_end_text(pruner)}, and its best would be the least pruned weights. Use "
                f"lightning_dynprune.PrunedCheckpoint(monitor={callback.monitor!r}{mode}) in its place, which "
                f"considers only validations at the target sparsity {pruner.target_sparsity:.4g}",
                stacklevel=3,
            )


def _end_text(pruner: Pruner) -> str:
    """Return in words when the schedule ends; nothing where that is not known."""
    span = pruner.schedule.span
    return "" if span is None else f" (after {span.unit.removesuffix('s')} {span.end})"


def _saves_before_end(trainer: Any, pruner: Pruner, every: tuple[int, int], steps_per_epoch: int | None) -> bool:
    """Return whether the first save comes before the schedule's last update; True where that is not known."""
    span, clock, (steps, epochs) = pruner.schedule.span, pruner.schedule_clock, every
    if span is None:
        return True
    # Several validations in an epoch may each save.
    if not steps and epochs and trainer.val_check_interval == 1.0:
        first = (clock.epoch // epochs + 1) * epochs
        if span.unit == "epochs":
            return first < span.end
        return steps_per_epoch is None or first * steps_per_epoch < span.end
    if steps and not epochs and span.unit == "steps":
        return (clock.step // steps + 1) * steps < span.end
    return True
