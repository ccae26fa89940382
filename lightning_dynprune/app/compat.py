"""Every use of internals of Lightning, torch and Hydra by the program; tests/app/test_compat.py checks each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning.pytorch as L
    from omegaconf import DictConfig

# Lightning calls `set_epoch` on the attribute of a loader that has this name, and takes the loader for a shuffled one
# if it is no `SequentialSampler`. If that goes, every epoch has the order of the first.
SAMPLER_ATTRIBUTE = "sampler"


def resumes_exactly_after(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether a checkpoint written after this batch resumes exactly.

    It does where the batch completes an optimizer step and neither a validation nor the end of the epoch follows. The
    answer depends on three undocumented attributes of Lightning: `Trainer.num_training_batches`, the period
    `Trainer.val_check_batch` and the counter `fit_loop.total_batch_idx`, by which Lightning schedules validation if
    `check_val_every_n_epoch` is None. If their meaning changes, a resumed run repeats or skips a validation.

    Args:
        trainer: the Trainer, in `on_train_batch_end`.
        batch_idx: number of the batch in its epoch.
    """
    done = batch_idx + 1
    if done >= trainer.num_training_batches or done % trainer.accumulate_grad_batches:
        return False
    period = trainer.val_check_batch
    if period is None:
        # Validation is scheduled by wall time, so it may follow any batch.
        return False
    if trainer.check_val_every_n_epoch is None:
        done = trainer.fit_loop.total_batch_idx + 1
    return bool(done % period)


def jobs_of_sweep(config: DictConfig) -> list[list[str]] | None:
    """Return the overrides of each job that Hydra's basic sweeper will run; None if they are not known before.

    They are not known with another sweeper, or if an override is a glob over a group. The function is the private
    module `hydra._internal.core_plugins.basic_sweeper`; if it goes, a stopped sweep cannot say what is left.

    Args:
        config: the configuration of the sweep, with Hydra's own settings.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ValueType

    if not config.hydra.sweeper.get("_target_", "").endswith("BasicSweeper"):
        return None
    overrides = OverridesParser.create().parse_overrides(
        [
            *(f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()),
            *config.hydra.overrides.task,
        ]
    )
    known = (None, ValueType.ELEMENT, ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP, ValueType.RANGE_SWEEP)
    if not all(override.value_type in known for override in overrides):
        return None
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs
