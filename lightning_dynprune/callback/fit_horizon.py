"""The length of a fit: optimizer steps and epochs, and the validations that are left."""

from __future__ import annotations

import math
import warnings

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lightning_dynprune.callback.compat import accumulation_schedule, callbacks_of, epochs_limited_to
from lightning_dynprune.schedules import Horizon


def fit_horizon(trainer: Trainer, max_epochs: int | None) -> Horizon:
    """Return the optimizer steps and epochs of a fit, as far as Lightning knows them.

    Args:
        trainer: in ``on_fit_start``.
        max_epochs: the Trainer's when ``setup`` began. ``StochasticWeightAveraging`` appends an epoch in which nothing
            is trained.
    """
    steps = _estimated_steps(trainer, max_epochs)
    batches = trainer.num_training_batches
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else None
    epochs = max_epochs if max_epochs is not None and max_epochs >= 0 else None
    accumulated = accumulation_schedule(callbacks_of(trainer))
    if accumulated is not None and per_epoch is not None:
        # Lightning counts as if every epoch accumulated as many batches as the first.
        counts = [math.ceil(batches / accumulated(epoch)) for epoch in range(max(epochs or 1, 1))]
        per_epoch = counts[0] if epochs is not None and len(set(counts)) == 1 else None
        if epochs is not None:
            steps = sum(counts) if trainer.max_steps < 0 else min(sum(counts), trainer.max_steps)
    # Lightning returns max_steps for a loader without a length, which is -1 if there is no limit.
    is_known = math.isfinite(steps) and steps >= 0
    is_trial = bool(getattr(trainer, "fast_dev_run", False))
    return Horizon(int(steps) if is_known else None, per_epoch, epochs, is_trial)


def validations_left(trainer: Trainer) -> int | None:
    """Return how many validations follow the running one; None if the length of training is not known.

    Args:
        trainer: in ``on_validation_end`` of a fit.
    """
    done, ends = trainer.current_epoch + 1, []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        ends.append(trainer.max_epochs)
    if trainer.max_steps >= 0:
        ends.append(trainer.max_steps * done // trainer.global_step)
    return max((min(ends) - done) // (trainer.check_val_every_n_epoch or 1), 0) if ends else None


def _estimated_steps(trainer: Trainer, max_epochs: int | None) -> float:
    """Return Lightning's estimate of the optimizer steps; infinite if it has none."""
    with epochs_limited_to(trainer, max_epochs):
        try:
            return trainer.estimated_stepping_batches
        except MisconfigurationException as error:
            warnings.warn(f"the length of training is not known: {error}", stacklevel=3)
            return math.inf
