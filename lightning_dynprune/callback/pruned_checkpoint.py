"""A ModelCheckpoint that considers only weights at the target sparsity."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_dynprune.callback.compat import callbacks_of, is_fitting
from lightning_dynprune.callback.shortfall import is_at_target
from lightning_dynprune.engine import Pruner


class PrunedCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoints among the validations at the target sparsity, within one unit.

    A plain ``ModelCheckpoint(monitor=...)`` keeps the most accurate weights, which are the least pruned ones. This one
    takes the same settings and is resumed alike, and leaves out every validation that ran below the target sparsity,
    and every later save that would hold denser weights. ``save_last`` and ``save_on_exception`` save as they do in
    ``ModelCheckpoint``, whatever the sparsity.

    Args:
        dirpath: folder of the checkpoints.
        filename: their name, as ``ModelCheckpoint`` takes it.
        monitor: the logged metric that ranks them; required.
        **settings: all other settings of ``ModelCheckpoint``, such as ``mode``, ``save_top_k`` and ``save_last``.

    Raises:
        ValueError: ``monitor`` is None; or, when a fit begins, the Trainer has no ``DynamicPruning``.

    Example:
        >>> PrunedCheckpoint(monitor="val_acc", mode="max", save_top_k=2).save_top_k
        2
    """

    def __init__(
        self, dirpath: Any = None, filename: str | None = None, monitor: str | None = None, **settings: Any
    ) -> None:
        if monitor is None:
            raise ValueError(
                "PrunedCheckpoint: monitor=None ranks nothing; give the name of a logged metric, such as "
                "monitor='val_acc', or use ModelCheckpoint, which keeps the newest weights without one"
            )
        super().__init__(dirpath, filename, monitor, **settings)
        # None until a validation has run: a metric that is logged in training is ranked by the sparsity at the save.
        self._validated_at_target: bool | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the Trainer prunes."""
        if not _pruners(trainer):
            raise ValueError(
                "PrunedCheckpoint needs a DynamicPruning among the callbacks of its Trainer, and there is none; add "
                "it, or use ModelCheckpoint"
            )
        super().on_train_start(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note whether the validated weights are at the target sparsity, and save them as ``ModelCheckpoint`` does."""
        if is_fitting(trainer) and not trainer.sanity_checking:
            self._validated_at_target = _are_at_target(trainer)
        super().on_validation_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Return whether a value of the monitored metric is among the best, and was measured at the target sparsity.

        Args:
            trainer: in a fit.
            current: the value.
        """
        if self._validated_at_target is False or not _are_at_target(trainer):
            return False
        return super().check_monitor_top_k(trainer, current)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if nothing was saved, as no validation was at the target sparsity."""
        super().on_train_end(trainer, pl_module)
        if self.save_top_k and not self.best_k_models and not getattr(trainer, "fast_dev_run", False):
            reached = ", ".join(f"{p.sparsity:.4f} of {p.target_sparsity:.4f}" for p in _pruners(trainer))
            warnings.warn(
                f"PrunedCheckpoint(monitor={self.monitor!r}) has saved nothing: no validation ran at the target "
                f"sparsity (the fit ended at {reached}). Train longer, end the schedule earlier (schedule end=...), or "
                "validate more often",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of ``ModelCheckpoint``, and whether the last validation was at the target sparsity."""
        return {**super().state_dict(), "validated_at_target": self._validated_at_target}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self._validated_at_target = state_dict.get("validated_at_target")


def _pruners(trainer: Trainer) -> list[Pruner]:
    """Return the pruners of a Trainer's callbacks."""
    found = (getattr(callback, "pruner", None) for callback in callbacks_of(trainer))
    return [pruner for pruner in found if isinstance(pruner, Pruner)]


def _are_at_target(trainer: Trainer) -> bool:
    return all(is_at_target(pruner) for pruner in _pruners(trainer))
