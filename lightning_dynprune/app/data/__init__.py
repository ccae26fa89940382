"""Small image data sets, held in memory as tensors.

May import ``app/compat.py``, Lightning and the libraries that read the data.
"""

from lightning_dynprune.app.data.digits import Digits
from lightning_dynprune.app.data.images import InMemoryImages
from lightning_dynprune.app.data.mnist import MNIST, FashionMNIST

__all__ = ["MNIST", "Digits", "FashionMNIST", "InMemoryImages"]
