"""The 1,797 handwritten digits of 8x8 pixels that scikit-learn ships."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lightning_dynprune.app.data.images import SPLIT_SEED, InMemoryImages, Samples

TEST_SHARE = 0.2
LARGEST_PIXEL = 16.0


class Digits(InMemoryImages):
    """The handwritten digits of scikit-learn; a fixed fifth of them is the test set.

    Source: https://archive.ics.uci.edu/dataset/80 (its test part, as packed by scikit-learn).
    """

    def read(self) -> tuple[Samples, Samples]:
        """Return the training and test samples, standardized over the training set."""
        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / LARGEST_PIXEL
        labels = torch.from_numpy(digits.target).long()
        train, test = train_test_split(
            range(len(labels)), test_size=TEST_SHARE, stratify=digits.target, random_state=SPLIT_SEED
        )
        mean, std = images[train].mean(), images[train].std()
        images = (images - mean) / std
        return Samples(images[train], labels[train]), Samples(images[test], labels[test])
