"""The networks of the program as plain ``nn.Module``s, and the LightningModule that trains them.

May import Lightning, torchmetrics and every room below app/.
"""

from lightning_dynprune.app.models.classifier import Classifier
from lightning_dynprune.app.models.convnet import ConvNet
from lightning_dynprune.app.models.convnet4 import ConvNet4
from lightning_dynprune.app.models.lenet5 import LeNet5
from lightning_dynprune.app.models.lenet_300_100 import LeNet300100

__all__ = ["Classifier", "ConvNet", "ConvNet4", "LeNet5", "LeNet300100"]
