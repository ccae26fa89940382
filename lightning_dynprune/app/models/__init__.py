"""The program's networks, plain ``nn.Module``s, and the one LightningModule that trains them.

May import base and Lightning.
"""

from lightning_dynprune.app.models.classifier import Classifier
from lightning_dynprune.app.models.convnet import ConvNet
from lightning_dynprune.app.models.lenet5 import LeNet5
from lightning_dynprune.app.models.lenet_300_100 import LeNet300100

__all__ = ["Classifier", "ConvNet", "LeNet5", "LeNet300100"]
