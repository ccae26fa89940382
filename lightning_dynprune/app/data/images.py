"""The base class of the image data sets: splits, checks and loaders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import lightning.pytorch as L
import torch
from torch import Tensor

from lightning_dynprune.app.data.batches import TensorBatches

EVALUATION_BATCH = 1000
SPLIT_SEED = 0


class Samples(NamedTuple):
    """Images, float32 ``(n, channels, height, width)``, and their labels, int64 ``(n,)``."""

    images: Tensor
    labels: Tensor


class InMemoryImages(L.LightningDataModule):
    """A labelled image data set in memory; a subclass implements ``read``.

    Args:
        shape: channels, height and width of an image; checked against the data.
        classes: number of classes; checked against the data.
        batch_size: samples per training batch.
        holdout: number of training samples held out for the validation accuracy. Their choice does not depend on
            ``seed``, so results of several seeds are comparable.
        seed: seed for shuffling the training batches.

    Raises:
        ValueError: ``holdout`` leaves no training samples, or the data have another shape or more classes.
    """

    def __init__(self, shape: Sequence[int], classes: int, batch_size: int, holdout: int, seed: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.classes = classes
        self.batch_size = batch_size
        self.holdout = holdout
        self.seed = seed
        self.train: TensorBatches | None = None

    @abstractmethod
    def read(self) -> tuple[Samples, Samples]:
        """Return the training samples and the test samples, normalized."""

    def setup(self, stage: str | None = None) -> None:
        """Read the data once and split off the validation samples."""
        if self.train is not None:
            return
        pool, test = self.read()
        self._check(pool)
        self._check(test)
        if not 1 <= self.holdout < len(pool.labels):
            raise ValueError(
                f"data.holdout={self.holdout} is not accepted; give 1 to {len(pool.labels) - 1} "
                "of the training samples to measure the validation accuracy on"
            )
        order = torch.randperm(len(pool.labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
        held, kept = order[: self.holdout], order[self.holdout :]
        self.train = TensorBatches(pool.images[kept], pool.labels[kept], self.batch_size, self.seed)
        self.val = TensorBatches(pool.images[held], pool.labels[held], EVALUATION_BATCH, seed=None)
        self.test = TensorBatches(test.images, test.labels, EVALUATION_BATCH, seed=None)

    def _check(self, samples: Samples) -> None:
        found = tuple(samples.images.shape[1:])
        if found != self.shape:
            raise ValueError(f"data.shape={list(self.shape)} does not fit: the images are {list(found)}")
        if int(samples.labels.max()) >= self.classes:
            raise ValueError(f"data.classes={self.classes} is too few: a label is {int(samples.labels.max())}")

    def train_dataloader(self) -> TensorBatches:
        """Return the shuffled training batches."""
        self.setup()
        assert self.train is not None
        return self.train

    def val_dataloader(self) -> TensorBatches:
        """Return the held-out batches."""
        return self.val

    def test_dataloader(self) -> TensorBatches:
        """Return the test batches."""
        return self.test

    # Lightning does not restore the state of a loader if the number of steps was computed before the training starts,
    # as a schedule in fractions of the training does. It always restores the state of the data module.
    def state_dict(self) -> dict[str, int]:
        """Return the position in the current epoch."""
        return self.train_dataloader().state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue at that position."""
        self.train_dataloader().load_state_dict(state_dict)
