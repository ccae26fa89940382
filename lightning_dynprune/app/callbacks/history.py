"""The curves of a run, recorded during training and kept in its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L

from lightning_dynprune.app.runs import is_curve
from lightning_dynprune.base import is_number

_MOST_POINTS = 2**15  # of a curve; more are not seen in a figure and are not read from a file


class History(L.Callback):
    """Record sparsity and validation accuracy over the optimizer steps, and the seconds of training.

    A curve of more than 32,768 points loses every second one, except the first and the last.

    Args:
        sparsity: returns the current sparsity, called after each batch; None for a dense training.
    """

    def __init__(self, sparsity: Callable[[], float] | None = None) -> None:
        self.sparsity = sparsity
        self.sparsity_points: list[tuple[int, float]] = []
        self.accuracy_points: list[tuple[int, float]] = []
        self._earlier_seconds = 0.0
        self._started: float | None = None

    @property
    def state_key(self) -> str:
        """The key of this callback's state in the checkpoint."""
        return "History"

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training, including the time before a resume."""
        return self._earlier_seconds + (0.0 if self._started is None else time.perf_counter() - self._started)

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """The points ``(step, value)`` of each curve."""
        return {"sparsity": self.sparsity_points, "val_accuracy": self.accuracy_points}

    def state_dict(self) -> dict[str, Any]:
        """Return the points and the seconds so far."""
        return {**self.curves, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the points and the seconds.

        Raises:
            ValueError: the state is damaged.
        """
        curves = (state_dict.get("sparsity"), state_dict.get("val_accuracy"))
        if not all(map(is_curve, curves)) or not is_number(state_dict.get("seconds")):
            raise ValueError("checkpoint: the history is no list of points with seconds; the file is damaged")
        self.sparsity_points = list(state_dict["sparsity"])
        self.accuracy_points = list(state_dict["val_accuracy"])
        self._earlier_seconds = state_dict["seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock; record the first sparsity of a new run."""
        self._started = time.perf_counter()
        if not self.sparsity_points:
            self._record_sparsity(trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the sparsity if it has changed."""
        self._record_sparsity(trainer.global_step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the validation accuracy."""
        accuracy = trainer.callback_metrics.get("val_acc")
        if accuracy is not None and not trainer.sanity_checking:
            _add(self.accuracy_points, (trainer.global_step, float(accuracy)))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock; record the sparsity, which the end of the last epoch may have changed."""
        self._record_sparsity(trainer.global_step)
        self._earlier_seconds, self._started = self.seconds, None

    def _record_sparsity(self, step: int) -> None:
        if self.sparsity is None:
            return
        sparsity = self.sparsity()
        if not self.sparsity_points or self.sparsity_points[-1][1] != sparsity:
            _add(self.sparsity_points, (step, sparsity))


def _add(points: list[tuple[int, float]], point: tuple[int, float]) -> None:
    points.append(point)
    if len(points) > _MOST_POINTS:
        del points[1:-1:2]
