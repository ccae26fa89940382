"""Pairs of inputs and labels from the data loaders of a Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch

from lightning_dynprune.callback.compat import batch_for_model, validation_loader

SplitBatch = Callable[[Any], tuple[Any, Any]]
_SEED = 0  # of the order of shuffled batches: the same in a run that is resumed after its last step


class TrainerBatches:
    """The batches of a data loader as the LightningModule gets them; every iteration has the same order.

    Args:
        trainer: of the loader; its limit of batches holds.
        loader: as the Trainer has prepared it for this process.
        most: number of batches; infinite: all.
        split: returns inputs and labels of a batch; None: batches are pairs.
    """

    def __init__(self, trainer: Any, loader: Any, most: float, split: SplitBatch | None) -> None:
        self.trainer, self.loader, self.split = trainer, loader, split
        self.most = None if math.isinf(most) else int(most)

    def __iter__(self) -> Iterator[Any]:
        with _own_order(self.loader):
            for batch in islice(self.loader, self.most):
                moved = batch_for_model(self.trainer, batch)
                yield moved if self.split is None else self.split(moved)


def training_batches(trainer: Any, split: SplitBatch | None) -> TrainerBatches:
    """Return the training batches of a Trainer, in ``on_fit_end``.

    Args:
        trainer: after a fit.
        split: see :class:`TrainerBatches`.
    """
    return TrainerBatches(trainer, trainer.train_dataloader, trainer.num_training_batches, split)


def held_out_batches(trainer: Any, split: SplitBatch | None) -> TrainerBatches:
    """Return the batches of a Trainer's first validation loader, in ``on_fit_end``.

    Args:
        trainer: after a fit.
        split: see :class:`TrainerBatches`.
    """
    loaders = validation_loader(trainer)
    several = isinstance(loaders, Sequence) and not isinstance(loaders, (str, bytes))
    return TrainerBatches(trainer, loaders[0] if several else loaders, trainer.num_val_batches[0], split)


@contextmanager
def _own_order(loader: Any) -> Iterator[None]:
    """Let a loader shuffle by a fixed seed and epoch, and restore its state and the random state afterwards."""
    state = loader.state_dict() if callable(getattr(loader, "state_dict", None)) else None
    # Loaders and samplers draw from the generator of the CPU.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        for sampler in (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            for each in (sampler, getattr(sampler, "sampler", None)):
                if callable(set_epoch := getattr(each, "set_epoch", None)):
                    set_epoch(_SEED)
        try:
            yield
        finally:
            if state is not None:
                loader.load_state_dict(state)
