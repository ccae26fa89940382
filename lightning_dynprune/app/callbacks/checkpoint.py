"""The checkpoint from which a stopped run continues exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Checkpoint

from lightning_dynprune.app.interrupt import Stopped, StopRequest
from lightning_dynprune.app.runs import RunFolder, random_state, restore_random_state
from lightning_dynprune.base import write_atomically


class LastCheckpoint(Checkpoint):
    """Keep one checkpoint up to date, and write it only where Lightning can take up the thread exactly.

    Lightning resumes exactly in two places: behind a batch that ends an optimizer step and is followed neither by
    validation nor by the end of the epoch, and at the end of an epoch. Anywhere else it would repeat or leave out a
    validation, an epoch's end or half of an accumulated gradient, so a save that falls due there waits for the next
    good place. Lightning calls callbacks of this class behind all others, so their state is that of a whole step.

    Args:
        path: the file, replaced atomically at each save.
        every_n_steps: optimizer steps between two saves; each end of an epoch is saved besides.
        run: the run that the checkpoint belongs to; its overrides make it again, its configuration is compared then.
        stop: asked at each place where stopping is safe.

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
        """The key of this callback's state in the checkpoint; ``resume`` reads it."""
        return "LastCheckpoint"

    def state_dict(self) -> dict[str, Any]:
        """Return the global random state and what ``resume`` needs."""
        return {
            "overrides": self.run.overrides,
            "config_dirs": self.run.config_dirs,
            "config": self.run.config_text,
            "random": random_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the training starts: what comes before it draws random numbers too."""
        self._restored = state_dict

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the random state, or save a run that has not begun."""
        self.stop.deferred = True
        self._saved_at = trainer.global_step
        if self._restored is None:
            self.save(trainer)
        else:
            restore_random_state(self._restored["random"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due and safe; stop there if that was asked for."""
        due = trainer.global_step - self._saved_at >= self.every_n_steps
        if (due or self.stop.requested) and _resumes_exactly_behind(trainer, batch_idx):
            self._save_or_stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save at the end of each epoch, behind its validation."""
        self._save_or_stop(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give Ctrl-C back its usual meaning."""
        self.stop.deferred = False

    def _save_or_stop(self, trainer: L.Trainer) -> None:
        self.save(trainer)
        if self.stop.requested:
            raise Stopped

    def save(self, trainer: L.Trainer) -> None:
        """Write the checkpoint in one move."""
        write_atomically(self.path, trainer.save_checkpoint)
        self._saved_at = trainer.global_step


def _resumes_exactly_behind(trainer: L.Trainer, batch_idx: int) -> bool:
    done = batch_idx + 1
    if done >= trainer.num_training_batches or done % trainer.accumulate_grad_batches:
        return False
    every = trainer.val_check_batch
    if every is None:
        # validation by wall time: it may fall behind any batch
        return False
    if trainer.check_val_every_n_epoch is None:
        done = trainer.fit_loop.total_batch_idx + 1
    return bool(done % every)
