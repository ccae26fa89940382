"""What the figure of a run shows, collected while it runs and carried through checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L

from lightning_dynprune.app.runs import is_curve
from lightning_dynprune.base import is_number


class History(L.Callback):
    """Record sparsity and validation accuracy over the optimizer steps, and the seconds of training.

    Args:
        sparsity: asked at each optimizer step for the share pruned at that moment; ``None`` for a dense run.
    """

    def __init__(self, sparsity: Callable[[], float] | None = None) -> None:
        self.sparsity = sparsity
        self.sparsity_points: list[tuple[int, float]] = []
        self.accuracy_points: list[tuple[int, float]] = []
        self._seconds_before = 0.0
        self._began: float | None = None

    @property
    def state_key(self) -> str:
        """The key of this callback's state in the checkpoint."""
        return "History"

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training, those before a resume included."""
        return self._seconds_before + (0.0 if self._began is None else time.perf_counter() - self._began)

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """The points ``(step, value)`` of each curve."""
        return {"sparsity": self.sparsity_points, "val_accuracy": self.accuracy_points}

    def state_dict(self) -> dict[str, Any]:
        """Return the points and the seconds so far."""
        return {**self.curves, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from them.

        Raises:
            ValueError: they are damaged.
        """
        curves = (state_dict.get("sparsity"), state_dict.get("val_accuracy"))
        if not all(map(is_curve, curves)) or not is_number(state_dict.get("seconds")):
            raise ValueError("checkpoint: the history is not what the program writes; the file is damaged")
        self.sparsity_points = list(state_dict["sparsity"])
        self.accuracy_points = list(state_dict["val_accuracy"])
        self._seconds_before = state_dict["seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and the curve of a run that has not begun."""
        self._began = time.perf_counter()
        if not self.sparsity_points:
            self._note_sparsity(trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note a sparsity that has changed."""
        self._note_sparsity(trainer.global_step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the accuracy just measured."""
        accuracy = trainer.callback_metrics.get("val_acc")
        if accuracy is not None and not trainer.sanity_checking:
            self.accuracy_points.append((trainer.global_step, float(accuracy)))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock; the last epoch may have changed the sparsity."""
        self._note_sparsity(trainer.global_step)
        self._seconds_before, self._began = self.seconds, None

    def _note_sparsity(self, step: int) -> None:
        if self.sparsity is None:
            return
        sparsity = self.sparsity()
        if not self.sparsity_points or self.sparsity_points[-1][1] != sparsity:
            self.sparsity_points.append((step, sparsity))
