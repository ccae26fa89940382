"""Dense baseline networks with as many parameters as a pruned one: the program's networks with fewer units."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

CLASSES = 10


class NarrowLeNet(nn.Sequential):
    """LeNet-300-100 with other numbers of hidden units.

    Args:
        shape: channels, height and width of an image.
        classes: number of outputs.
        dropout: probability, as in the program's network.
        widths: units of the two hidden layers.

    Example:
        >>> sum(p.numel() for p in NarrowLeNet((1, 28, 28), 10, 0.0, (300, 100)).parameters())
        266610
    """

    def __init__(self, shape: Sequence[int], classes: int, dropout: float, widths: Sequence[int]) -> None:
        first, second = widths
        super().__init__(
            nn.Flatten(),
            nn.Linear(math.prod(shape), first),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(second, classes),
        )


class NarrowConvNet(nn.Sequential):
    """The program's ConvNet with other numbers of filters.

    Args:
        shape: channels, height and width of an image.
        classes: number of outputs.
        width: filters of the two convolutions.

    Example:
        >>> sum(p.numel() for p in NarrowConvNet((1, 28, 28), 10, (16, 32)).parameters())
        6138
    """

    def __init__(self, shape: Sequence[int], classes: int, width: Sequence[int]) -> None:
        first, second = width
        super().__init__(
            nn.Conv2d(shape[0], first, 3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * second, classes),
        )


def lenet_widths(sparsity: float) -> tuple[int, int]:
    """Return the widest hidden layers with no more parameters than LeNet-300-100 keeps at this sparsity.

    The second layer has a third of the units of the first, as in LeNet-300-100, but at least one per class.

    Example:
        >>> lenet_widths(0.0), lenet_widths(0.95)
        ((300, 100), (17, 10))
    """
    connections = 784 * 300 + 300 * 100 + 100 * CLASSES
    budget = connections - round(sparsity * connections) + 300 + 100 + CLASSES
    pairs = [(first, max(CLASSES, round(first / 3))) for first in range(1, 301)]
    return max(pair for pair in pairs if _lenet_size(*pair) <= budget)


def convnet_widths(sparsity: float) -> tuple[int, int]:
    """Return the widest convolutions with no more parameters than the ConvNet keeps at this sparsity.

    The second has twice as many filters as the first, as in the ConvNet, or one more, or one less.

    Example:
        >>> convnet_widths(0.0), convnet_widths(0.95)
        ((16, 32), (3, 5))
    """
    connections = 9 * 16 + 9 * 16 * 32 + 4 * 32 * CLASSES
    budget = connections - round(sparsity * connections) + 2 * 16 + 2 * 32 + CLASSES
    pairs = [(first, 2 * first + more) for first in range(1, 17) for more in (-1, 0, 1)]
    return max((pair for pair in pairs if _convnet_size(*pair) <= budget), key=lambda pair: _convnet_size(*pair))


def _lenet_size(first: int, second: int) -> int:
    return 785 * first + (first + 1) * second + (second + 1) * CLASSES


def _convnet_size(first: int, second: int) -> int:
    return 11 * first + (9 * first + 2) * second + (4 * second + 1) * CLASSES
