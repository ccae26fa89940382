"""The small image sets of the program, held in memory as tensors.

May import base and Lightning.
"""

from lightning_dynprune.app.data.digits import Digits
from lightning_dynprune.app.data.images import InMemoryImages
from lightning_dynprune.app.data.mnist import MNIST, FashionMNIST

__all__ = ["MNIST", "Digits", "FashionMNIST", "InMemoryImages"]
