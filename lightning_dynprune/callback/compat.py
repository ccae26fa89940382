"""Private and unstable names of Lightning; no other file of this room relies on how Lightning works inside.

A comment at each of them says what breaks when Lightning changes it; tests/callback/test_compat.py fails when it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import nn
from torch.optim.swa_utils import AveragedModel

CLIP_METHOD = "clip_gradients"
RESULTS_ATTRIBUTE = "_dynprune"


def is_lightning_class(instance: Any, name: str) -> bool:
    """Return whether an object is of the Lightning class of that name, in either of Lightning's two packages.

    Args:
        instance: any object.
        name: of a class in ``lightning`` or ``pytorch_lightning``.
    """
    # By name, as the two packages hold two copies of each class, and importing the other one would cost seconds.
    # If a class is renamed, what relies on it here is never recognised: no error, no worker results, wrong horizon.
    return any(kind.__name__ == name and "lightning" in kind.__module__ for kind in type(instance).__mro__)


def callbacks_of(trainer: Any) -> list[Any]:
    """Return the callbacks of a Trainer."""
    # Set by a connector, so type checkers do not see it. Without it no conflict with another callback is found.
    return list(trainer.callbacks)


def is_set_aside(trainer: Any, callback: Any) -> bool:
    """Return whether a finder of learning rates or batch sizes is running, so that steps are no training.

    Args:
        trainer: runs the steps.
        callback: one that was attached to the Trainer when the fit began.
    """
    # The finders put other callbacks in place of those of the Trainer while they run. If they left them in place, their
    # trial steps would count as steps of the training, and the masks would be updated by them.
    return callback not in trainer.callbacks


def is_fitting(trainer: Any) -> bool:
    """Return whether a Trainer runs ``fit``, also during its validations."""
    # ``Trainer.state`` is public and its ``fn`` a string enum of either of Lightning's packages. If it goes, a
    # validation in a fit is taken for one of its own, or the other way round.
    return str(trainer.state.fn.value) == "fit" if trainer.state.fn is not None else False


def monitored_save_interval(callback: Any) -> tuple[int, int] | None:
    """Return every how many steps and epochs a ``ModelCheckpoint`` may save its best; None if it ranks nothing.

    Args:
        callback: any callback; 0 steps or epochs: not by these.
    """
    # If the class or the attributes are renamed, the warning that the best checkpoint may be the least pruned is lost.
    if not is_lightning_class(callback, "ModelCheckpoint") or callback.monitor is None or not callback.save_top_k:
        return None
    return max(callback._every_n_train_steps, 0), max(callback._every_n_epochs, 0)


def averaged_model(callback: Any) -> nn.Module | None:
    """Return the averaged copy of the model that a callback keeps, or None."""
    # StochasticWeightAveraging, WeightAveraging and its subclasses keep it here from their ``setup`` on. If the
    # attribute goes, averages keep small values where the model is pruned, and slim= beside averaging is not refused.
    model = getattr(callback, "_average_model", None)
    model = model.module if isinstance(model, AveragedModel) else model
    return model if isinstance(model, nn.Module) else None


def parameters_of_model_pruning(callback: Any) -> Sequence[tuple[nn.Module, str]]:
    """Return the parameters that a callback prunes if it is Lightning's ``ModelPruning``: module and attribute."""
    # Filled in ``ModelPruning.setup``. If it goes, both callbacks prune one parameter, which then is no leaf any more.
    pairs = callback._parameters_to_prune if is_lightning_class(callback, "ModelPruning") else ()
    return cast("Sequence[tuple[nn.Module, str]]", pairs)


def unfreezes_layers(callback: Any) -> bool:
    """Return whether a callback is one of Lightning's finetuning callbacks, which unfreeze layers during a fit."""
    # If the class is renamed, layers that are frozen at first stay dense without an error.
    return is_lightning_class(callback, "BaseFinetuning")


def accumulation_schedule(callbacks: Iterable[Any]) -> Callable[[int], int] | None:
    """Return the number of accumulated batches as a function of the epoch, if a callback changes it; else None."""
    # If the class is renamed, the length of training is taken from the first epoch, and schedules end at a wrong step.
    for callback in callbacks:
        if is_lightning_class(callback, "GradientAccumulationScheduler"):
            return cast("Callable[[int], int]", callback.get_accumulate_grad_batches)
    return None


def flattening_strategy(trainer: Any) -> str | None:
    """Return the class name of a Trainer's strategy if it flattens parameters before it shards them; else None."""
    # If these are renamed, the fit fails later, with a message about targets that were not found.
    names = ("FSDPStrategy", "DeepSpeedStrategy")
    return next((name for name in names if type(trainer.strategy).__name__ == name), None)


@contextmanager
def epochs_limited_to(trainer: Any, max_epochs: int | None) -> Iterator[None]:
    """Give a Trainer another ``max_epochs`` inside the block.

    Args:
        trainer: whose length is estimated inside the block.
        max_epochs: None and -1 as Lightning takes them.
    """
    # ``Trainer.max_epochs`` and ``estimated_stepping_batches`` read this attribute. If they stop doing so, schedules
    # count the epoch that StochasticWeightAveraging appends, in which nothing is trained.
    trainer.fit_loop.max_epochs, before = max_epochs, trainer.fit_loop.max_epochs
    try:
        yield
    finally:
        trainer.fit_loop.max_epochs = before


def clip_method(plugin: Any) -> Callable[..., None]:
    """Return the method of a precision plugin by which gradients are clipped."""
    return cast("Callable[..., None]", getattr(plugin, CLIP_METHOD))


def replace_clip_method(plugin: Any, method: Callable[..., None]) -> None:
    """Clip by another method from here on."""
    # ``LightningModule.clip_gradients`` calls ``trainer.precision_plugin.clip_gradients``, in automatic and in manual
    # optimization. If it calls something else, a module that clips by itself counts gradients of pruned connections.
    setattr(plugin, CLIP_METHOD, method)


def restore_clip_method(plugin: Any) -> None:
    """Clip by the method of the plugin's class again."""
    delattr(plugin, CLIP_METHOD)


def is_worker(trainer: Any) -> bool:
    """Return whether this is a worker process of ``ddp_spawn`` or ``ddp_fork``, which ends with the training."""
    # If the class is renamed, the main process has no masks after a fit by ddp_spawn or ddp_fork: sparsity is 0 there.
    return is_lightning_class(trainer.strategy.launcher, "_MultiProcessingLauncher")


def add_to_results(trainer: Any, message: object) -> None:
    """Attach an object to what a worker process returns; it is unpickled in the main process.

    Args:
        trainer: in the worker process of rank 0, once training has ended.
        message: an object that can be pickled.
    """
    # The launcher pickles ``trainer.state`` of rank 0, and assigns it to the Trainer of the main process. If it returns
    # something else, the message is lost, with the effect that ``is_worker`` names.
    vars(trainer.state).setdefault(RESULTS_ATTRIBUTE, []).append(message)


def batch_for_model(trainer: Any, batch: Any) -> Any:
    """Return a batch of a data loader as the LightningModule gets it: converted, moved, and passed through its hooks.

    Args:
        trainer: that the module is attached to.
        batch: as the loader returns it.
    """
    # What Lightning's loops do with each batch. If the first hook is renamed, batches of a module that overrides
    # ``on_before_batch_transfer`` reach the heads unchanged.
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch)


def validation_loader(trainer: Any) -> Any:
    """Return the validation loaders of a Trainer after a fit, also of one that has validated nothing.

    Args:
        trainer: whose ``enable_validation`` is true.
    """
    # A resumed fit with no step left has not set its validation up. If the loop is moved, heads cannot be calibrated in
    # such a fit.
    if trainer.val_dataloaders is None:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
    return trainer.val_dataloaders
