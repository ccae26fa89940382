"""LeNet-300-100, the standard multilayer perceptron of the pruning literature."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn


class LeNet300100(nn.Sequential):
    """Two hidden layers of 300 and 100 ReLU units.

    On 28x28 images and 10 classes it has 266,610 parameters.

    Args:
        shape: channels, height and width of an image.
        classes: number of outputs.
        dropout: dropout probability of the hidden units.

    Example:
        >>> sum(p.numel() for p in LeNet300100((1, 28, 28), 10).parameters())
        266610

    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition", section III-C-3.
    """

    def __init__(self, shape: Sequence[int], classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(math.prod(shape), 300)
        self.relu1 = nn.ReLU()
        self.drop1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(300, 100)
        self.relu2 = nn.ReLU()
        self.drop2 = nn.Dropout(dropout)
        self.fc3 = nn.Linear(100, classes)
