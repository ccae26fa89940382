"""An error in one process of a Trainer ends the others with its message, in forked processes under ``ddp``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.distributed as dist

from lightning_dynprune import AccuracyGuard, DynamicPruning
from lightning_dynprune.app.data.batches import TensorBatches
from lightning_dynprune.distributed import held_errors
from tests.compatibility.runs import Module
from tests.processes.group import together
from tests.processes.test_rank_errors import Observed, Scored
from tests.training import trainer

SCHEDULE = {"begin": 2, "end": 10, "every": 3}


@pytest.fixture(scope="module", autouse=True)
def _looks_often() -> Iterator[None]:
    """Let processes forked from here look for errors of others fifty times a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_errors, "_POLL_SECONDS", 0.02)
        yield


class Steps(L.Callback):
    """Notes how many steps a fit made, and whether it ended by an exception."""

    steps = 0

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.steps = trainer.global_step


class Rows(Module):
    """Trains on as many batches as it is told, and logs on the ranks and until the step that it is told."""

    def __init__(self, batches: int = 6, logs: bool = True, loses_log_at: int | None = None) -> None:
        super().__init__()
        x = torch.randn(8 * batches, 8, generator=torch.Generator().manual_seed(dist.get_rank()))
        self.batches, self.logs = TensorBatches(x, x[:, :4].argmax(1), 8, seed=None), logs
        self.loses_log_at = loses_log_at

    def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        """Log what the callback has to log, which fails on one rank from a step on."""
        if self.loses_log_at is not None and self.global_step >= self.loses_log_at and dist.get_rank() == 1:
            raise OSError("log lost")
        super().log_dict(dictionary, *args, **kwargs)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.logs:
            self.log("val_acc", 0.9)


def _fit(folder: Path, pruning: DynamicPruning, module: Rows | None = None) -> tuple[str, int]:
    steps = Steps()
    run = trainer([pruning, steps], folder, max_epochs=2, strategy="ddp", devices=2, num_sanity_val_steps=0)
    try:
        run.fit(Rows() if module is None else module)
    except Exception as error:
        return f"{type(error).__name__}: {error}", steps.steps
    return "no error", steps.steps


def _fits(rank: int, folder: Path) -> dict[str, tuple[str, int]]:
    def pruning(**settings: Any) -> DynamicPruning:
        return DynamicPruning(**{"sparsity": 0.75, "strategy": "magnitude", "schedule": SCHEDULE, **settings})

    return {
        "score": _fit(folder, pruning(strategy=Scored())),
        "observe": _fit(folder, pruning(strategy=Observed(at=5))),
        "observe at the end": _fit(folder, pruning(strategy=Observed(at=11))),
        "hook": _fit(folder, pruning(), Rows(loses_log_at=5)),
        "example": _fit(folder, pruning(pattern="channel", example_input=torch.randn(2, 8 + rank))),
        "guard": _fit(folder, pruning(guard=AccuracyGuard()), Rows(logs=rank == 0)),
        "every": _fit(folder, pruning(schedule={**SCHEDULE, "every": 3 + rank})),
        "limit": _fit(folder, pruning(guard=AccuracyGuard(max_drop=0.1 + 0.1 * rank))),
        "batches": _fit(folder, pruning(), Rows(batches=6 - rank)),
        "none": _fit(folder, pruning()),
    }


@pytest.fixture(scope="module")
def fits(_looks_often: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[str, int]]]:
    folder = tmp_path_factory.mktemp("fits")
    return together(2, _fits, folder, folder)


@pytest.mark.parametrize(
    ("name", "error", "steps"),
    [
        ("score", "ValueError: no score today", 7),
        ("observe", "ValueError: gradient lost", 6),
        ("observe at the end", "ValueError: gradient lost", 11),
        ("hook", "OSError: log lost", 6),
        ("example", "CouplingError: ", 0),
        ("guard", "ValueError: guard: monitor='val_acc' was not logged in validation", 6),
    ],
)
def test_an_error_of_one_rank_is_raised_in_all(
    name: str, error: str, steps: int, fits: list[dict[str, tuple[str, int]]]
) -> None:
    (other, other_steps), (faulty, faulty_steps) = (told[name] for told in fits)
    assert faulty.startswith(error)
    assert other == f"RankError: rank 1 failed: {faulty}"
    assert other_steps == faulty_steps == steps


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("every", "schedule.every is 3 on rank 0 and 4 on rank 1"),
        ("limit", "guard.max_drop is 0.1 on rank 0 and 0.2 on rank 1"),
        ("batches", "total_steps is 12 on rank 0 and 10 on rank 1"),
    ],
)
def test_what_differs_between_ranks_is_refused_before_the_first_batch(
    name: str, words: str, fits: list[dict[str, tuple[str, int]]]
) -> None:
    for told in fits:
        assert words in told[name][0]
        assert told[name][1] == 0


def test_a_fit_without_an_error_ends_after_those_that_failed(fits: list[dict[str, tuple[str, int]]]) -> None:
    assert [told["none"] for told in fits] == [("no error", 12)] * 2
