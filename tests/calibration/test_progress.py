"""The progress bar of a calibration."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_dynprune import Pruner
from lightning_dynprune.calibration import with_progress


class Clock:
    """Moves on by a number of seconds each time it is read."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Endless(IterableDataset[int]):
    """Two numbers, of a length that is not known."""

    def __iter__(self) -> Iterator[int]:
        return iter((1, 2))


def drawn(batches: object, step: float, terminal: bool = True) -> tuple[list[object], str]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, force_jupyter=False, width=80)
    return list(with_progress(batches, console, Clock(step))), out.getvalue()


def test_a_long_calibration_draws_a_bar_with_its_number_of_batches() -> None:
    batches, text = drawn(list(range(7)), step=1.0)
    assert batches == list(range(7))
    assert "Calibrating" in text
    assert "6/7" in text


def test_a_short_calibration_draws_nothing() -> None:
    assert drawn([1, 2, 3], step=0.1) == ([1, 2, 3], "")


def test_nothing_is_drawn_into_a_file() -> None:
    assert drawn([1, 2, 3], step=5.0, terminal=False)[1].strip() == ""


def test_batches_of_unknown_length_are_counted() -> None:
    batches, text = drawn(DataLoader(Endless(), batch_size=None), step=5.0)
    assert batches == [1, 2]
    assert "1/?" in text


def test_the_bar_is_removed_where_a_batch_raises() -> None:
    out = io.StringIO()
    batches = with_progress([1, 2], Console(file=out, force_terminal=True, width=80), Clock(5.0))
    assert next(batches) == 1
    with pytest.raises(RuntimeError, match="no memory"):
        batches.throw(RuntimeError("no memory"))  # type: ignore[attr-defined]
    assert out.getvalue().endswith("\x1b[2K")  # the line is cleared


def test_calibrate_reads_every_batch_with_and_without_a_bar() -> None:
    net = nn.Linear(4, 2)
    pruner = Pruner(net, sparsity=0.5, strategy="wanda", schedule={"name": "one_shot", "begin": 1})
    seen: list[int] = []
    for progress in (True, False):
        pruner.calibrate(
            (torch.ones(1, 4) * i for i in (1, 2)), lambda x: seen.append(int(x[0, 0])) or net(x), progress=progress
        )
    assert seen == [1, 2, 1, 2]
    with pytest.raises(TypeError, match="progress='yes'"):
        pruner.calibrate([], progress="yes")  # type: ignore[arg-type]
