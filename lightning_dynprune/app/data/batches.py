"""Batches of tensors in memory, in an order that a resumed run reproduces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lightning_dynprune.app.compat import SAMPLER_ATTRIBUTE


class EpochOrder:
    """The order of the samples in an epoch, computed from (seed, epoch) without the global random state.

    Args:
        size: number of samples.
        seed: seed of every epoch's order; ``None`` keeps the samples in their own order.

    Example:
        >>> order = EpochOrder(4, seed=0)
        >>> order.set_epoch(7)
        >>> first = order.indices().tolist()
        >>> order.set_epoch(7)
        >>> order.indices().tolist() == first
        True
    """

    def __init__(self, size: int, seed: int | None) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def indices(self) -> Tensor:
        """Return the sample numbers of this epoch, int64, shaped ``(size,)``."""
        if self.seed is None:
            return torch.arange(self.size)
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, self.epoch]))
        return torch.from_numpy(generator.permutation(self.size))


class TensorBatches:
    """An iterable of ``(images, labels)`` batches that can be resumed in the middle of an epoch.

    Args:
        images: float tensor, samples first.
        labels: int64 tensor, one label per sample.
        batch_size: samples per batch; the last batch of an epoch may be smaller.
        seed: seed of the shuffle; ``None`` does not shuffle.

    Raises:
        ValueError: ``batch_size`` is below 1 or there are no samples.

    Example:
        >>> import torch
        >>> batches = TensorBatches(torch.arange(5.0), torch.arange(5), batch_size=2, seed=None)
        >>> [labels.tolist() for _, labels in batches]
        [[0, 1], [2, 3], [4]]
        >>> batches.load_state_dict({"batch": 2})
        >>> [labels.tolist() for _, labels in batches]
        [[4]]
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, seed: int | None) -> None:
        if batch_size < 1:
            raise ValueError(f"data.batch_size={batch_size} is not accepted; give 1 or more")
        if not len(labels):
            raise ValueError("there are no samples to make batches of; lower data.holdout")
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self._order = EpochOrder(len(labels), seed)
        if seed is not None:
            setattr(self, SAMPLER_ATTRIBUTE, self._order)
        self._start = 0
        self._returned = 0

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # This is a generator, so the order is computed at the first batch, after the epoch and the state are set.
        order = self._order.indices()
        start, self._start = self._start, 0
        for number in range(start, len(self)):
            chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
            self._returned = number + 1
            yield self.images[chosen], self.labels[chosen]

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches of the current epoch that have been returned."""
        return {"batch": self._returned % len(self)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next iteration after the batches that had been returned.

        Raises:
            ValueError: the epoch has fewer batches.
        """
        batch = state_dict.get("batch")
        if not isinstance(batch, int) or not 0 <= batch < len(self):
            raise ValueError(f"checkpoint: batch {batch!r} of {len(self)} in an epoch; the file is damaged")
        self._start = self._returned = state_dict["batch"]
