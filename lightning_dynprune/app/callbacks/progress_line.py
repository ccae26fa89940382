"""The progress of one training as one line of at most eighty characters."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

WIDTH = 20  # characters of the bar


class ProgressLine(L.Callback):
    """Show one line for a training: its name, a bar, the optimizer steps, the time left, sparsity and accuracy.

    The line stays when the training has ended.

    Args:
        name: which training it is.
        console: where the line is printed; None for the standard output.
    """

    def __init__(self, name: str, console: Console | None = None) -> None:
        self.name = name
        self._progress = Progress(
            TextColumn("{task.description:<13}"),
            BarColumn(WIDTH),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._task: TaskID | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the line, at the step from which a resumed run continues."""
        total = trainer.estimated_stepping_batches
        self._task = self._progress.add_task(self.name, total=total, completed=trainer.global_step, figures="")
        self._progress.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        self._show(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the accuracy."""
        self._show(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the line as it is."""
        self._show(trainer)
        self._progress.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the line as it is, and give the cursor back."""
        self._progress.stop()

    def _show(self, trainer: L.Trainer) -> None:
        if self._task is None:
            return
        figures = trainer.callback_metrics
        shown = [
            f"{100 * float(figures[metric]):.1f} % {word}"
            for metric, word in (("dynprune/sparsity", "pruned"), ("val_acc", "right"))
            if metric in figures
        ]
        self._progress.update(self._task, completed=trainer.global_step, figures=", ".join(shown))
