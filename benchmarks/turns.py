"""Run several Lightning trainers in one process that alternate after a few steps.

Each ``Trainer.fit`` runs in a thread that waits in its data iterator for its turn. So one thread runs at a time,
turns are short, and drift of the machine affects all contenders equally.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as L
import timing
import torch
from contenders import WARM_STEPS
from lightning.pytorch.loggers import CSVLogger
from models import Plain, Workload
from torch import nn

ENDLESS = 10**9


def trainer(folder: str, callbacks: list[L.Callback], max_steps: int = ENDLESS) -> L.Trainer:
    """Return a Trainer without extras except a logger."""
    return L.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        max_epochs=2,
        callbacks=callbacks,
        logger=CSVLogger(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class Training:
    """One ``Trainer.fit`` in its own thread, which runs only during :meth:`turn`.

    Args:
        workload: the network, optimizer and batch.
        contender: prepares the network and returns the callbacks.
        steps: steps of one turn.
        folder: folder of the logger.
        max_steps: length of the run; by default it runs until :meth:`finish`.
    """

    def __init__(
        self,
        workload: Workload,
        contender: Callable[[nn.Module], list[L.Callback]],
        steps: int,
        folder: str,
        max_steps: int = ENDLESS,
    ) -> None:
        torch.manual_seed(0)
        self.network, self.batch, self.steps = workload.network(), workload.batch(), steps
        callbacks = contender(self.network)
        self.model = Plain(self.network, workload, self._batches)
        self.trainer = trainer(folder, callbacks, max_steps)
        self.epochs_started, self.stopped, self.is_done, self.failure = 0, False, False, None
        self._go, self._rests = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._fit, daemon=True)

    def turn(self) -> float:
        """Run the steps of one turn; return their CPU seconds."""

        def move() -> None:
            if self._thread.ident is None:
                self._thread.start()
            else:
                self._go.release()
            self._rests.acquire()

        seconds = timing.cpu_seconds(move)
        if self.failure is not None:
            raise self.failure
        return seconds

    def finish(self) -> None:
        """End the training at its next turn."""
        self.stopped = True
        self.turn()
        self._thread.join()

    def _fit(self) -> None:
        try:
            self.trainer.fit(self.model)
        except BaseException as failure:
            self.failure = failure
        finally:
            self.is_done = True
            self._rests.release()

    def _batches(self) -> Iterator[Any]:
        # A first, short epoch, because ModelPruning prunes at the end of an epoch.
        self.epochs_started += 1
        if self.epochs_started == 1:
            yield from [self.batch] * WARM_STEPS
            return
        while not self.stopped:
            self._rests.release()
            self._go.acquire()
            yield from [self.batch] * (0 if self.stopped else self.steps)
