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
    if trainer.val_check_batch is None:  # validated by the clock
        return None
    epoch, batch = trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx + 1
    steps, batches = _windows_left(trainer), trainer.num_training_batches
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else math.inf
    if (math.isinf(steps) or batches < 1) and (math.isinf(epochs) or math.isinf(batches)):
        return None if math.isinf(epochs) else _whole_epochs(trainer, epoch + 1, int(epochs))
    accumulated = accumulation_schedule(callbacks_of(trainer)) or (lambda epoch: trainer.accumulate_grad_batches)
    total, count = trainer.fit_loop.total_batch_idx + 1, 0
    while epoch < epochs and steps > 0:
        size = accumulated(epoch) if trainer.lightning_module.automatic_optimization else 1
        done = math.ceil(batch / size) if batch >= batches else batch // size
        here = math.ceil(batches / size) - done if math.isfinite(batches) else math.inf
        end = batches if steps >= here else min((done + steps) * size, batches)
        count += _validations_between(trainer, epoch, batch, end, total)
        total, steps = total + int(end) - batch, steps - min(here, steps)
        epoch, batch = epoch + 1, 0
    return count


def _windows_left(trainer: Trainer) -> float:
    """Return how many accumulations of batches are left to ``max_steps``; infinite if there is no such limit."""
    if trainer.max_steps < 0:
        return math.inf
    left = trainer.max_steps - trainer.global_step
    if trainer.lightning_module.automatic_optimization or not trainer.global_step:
        return left
    # Steps by hand: as many a batch as so far.
    return math.ceil(left * (trainer.fit_loop.total_batch_idx + 1) / trainer.global_step)


def _validations_between(trainer: Trainer, epoch: int, first: int, last: float, total: int) -> int:
    """Return how many validations follow the batches of an epoch after the ``first`` up to the ``last``.

    Args:
        trainer: in a fit.
        epoch: the epoch.
        first: number of its batches that are done.
        last: number of its batches that are done in the end.
        total: number of batches done with the ``first``, over all epochs.
    """
    every, interval = trainer.check_val_every_n_epoch, float(trainer.val_check_batch or math.inf)
    if every is None:
        return 0 if math.isinf(interval) else int((total + last - first) // interval - total // interval)
    if (epoch + 1) % every:
        return 0
    if math.isinf(interval):
        return int(first < last == trainer.num_training_batches)
    return int(last // interval - first // interval)


def _whole_epochs(trainer: Trainer, first: int, last: int) -> int:
    """Return how many of the epochs from ``first`` to before ``last`` end with a validation."""
    every = trainer.check_val_every_n_epoch or 1
    return max(last // every - first // every, 0)


def _estimated_steps(trainer: Trainer, max_epochs: int | None) -> float:
    """Return Lightning's estimate of the optimizer steps; infinite if it has none."""
    with epochs_limited_to(trainer, max_epochs):
        try:
            return trainer.estimated_stepping_batches
        except MisconfigurationException as error:
            warnings.warn(f"the length of training is not known: {error}", stacklevel=3)
            return math.inf
