"""The checkpoint from which a stopped run resumes exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Checkpoint

from lightning_dynprune.app.compat import resumes_exactly_after
from lightning_dynprune.app.interrupt import StopRequest
from lightning_dynprune.app.runs import RunFolder, random_state, restore_random_state, settings_digest
from lightning_dynprune.base import write_atomically


class LastCheckpoint(Checkpoint):
    """Keep one checkpoint up to date, and save it only where Lightning resumes exactly.

    Lightning resumes exactly from two places: after a batch that completes an optimizer step and is followed neither
    by a validation nor by the end of the epoch, and at the end of an epoch. From any other place it would repeat or
    skip a validation, the end of an epoch or half of an accumulated gradient. A save that is due there is made at the
    next of these two places. Lightning calls subclasses of ``Checkpoint`` after all other callbacks, so the saved
    state of those includes the whole step.

    Args:
        path: the file, replaced atomically by each save.
        every_n_steps: optimizer steps between two saves; the end of each epoch is saved too.
        run: the run that the checkpoint belongs to; its overrides and its configuration are saved for ``resume``.
        stop: set by Ctrl-C, and checked wherever a save is possible.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
    """

    def __init__(self, path: Path, every_n_steps: int, run: RunFolder, stop: StopRequest) -> None:
        if every_n_steps < 1:
            raise ValueError(f"checkpoint.every_n_steps={every_n_steps} is not accepted; give 1 or more")
        self.path = path
        self.every_n_steps = every_n_steps
        self.run = run
        self.stop = stop
        self._saved_at = 0
        self._restored: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """The key of this callback's state in the checkpoint, which ``resume`` reads."""
        return "LastCheckpoint"

    def state_dict(self) -> dict[str, Any]:
        """Return the global random state, the overrides and the configuration."""
        return {
            "overrides": self.run.overrides,
            "config_dirs": self.run.config_dirs,
            "config": self.run.config_text,
            "digest": settings_digest(self.run.config),
            "random": random_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store the state; the random state is restored when the training starts, since setup draws random numbers.

        Raises:
            ValueError: the random state is missing.
        """
        if "random" not in state_dict:
            raise ValueError("checkpoint: 'random', the random state, is missing; the file is damaged")
        self._restored = state_dict

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the random state of a resumed run, or save a new run before its first step."""
        self.stop.deferred = True
        self._saved_at = trainer.global_step
        if self._restored is None:
            self.save(trainer)
        else:
            restore_random_state(self._restored["random"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if a save is due and the run would resume exactly; then stop if Ctrl-C was pressed."""
        due = trainer.global_step - self._saved_at >= self.every_n_steps
        if (due or self.stop.requested) and resumes_exactly_after(trainer, batch_idx):
            self._save_or_stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save at the end of each epoch, after its validation."""
        self._save_or_stop(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let Ctrl-C stop at once again."""
        self.stop.deferred = False

    def _save_or_stop(self, trainer: L.Trainer) -> None:
        self.save(trainer)
        if self.stop.requested:
            self.stop.stop()

    def save(self, trainer: L.Trainer) -> None:
        """Write the checkpoint atomically."""
        write_atomically(self.path, trainer.save_checkpoint)
        self._saved_at = trainer.global_step
