"""The progress of a training at eighty columns."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from lightning_dynprune.app.callbacks import ProgressLine


def shown(**figures: Any) -> list[str]:
    """Return the last lines that a terminal of eighty columns shows of a training of four steps."""
    output = io.StringIO()
    line = ProgressLine("dense control", Console(file=output, width=80, force_terminal=True, color_system=None))
    trainer: Any = SimpleNamespace(estimated_stepping_batches=4, global_step=0, callback_metrics={})
    line.on_train_start(trainer, None)  # type: ignore[arg-type]
    trainer.global_step, trainer.callback_metrics = 4, figures
    line.on_train_end(trainer, None)  # type: ignore[arg-type]
    return [text for text in output.getvalue().replace("\r", "\n").split("\n") if "steps" in text]


def test_the_line_names_the_training_and_fits_into_eighty_columns():
    last = shown(**{"dynprune/sparsity": 0.9, "val_acc": 0.9876})[-1]
    assert "dense control" in last
    assert "4/4 steps" in last
    assert "90.0 % pruned, 98.8 % right" in last
    assert len(last) <= 80 + len("\x1b[2K") * 2


def test_a_training_without_figures_shows_its_steps_alone():
    assert "right" not in shown()[-1]
