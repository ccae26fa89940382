"""A small convolutional module whose channels are pruned, for the tests of the callback."""

from __future__ import annotations

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynprune import DynamicPruning


class Module(L.LightningModule):
    def __init__(self, as_mapping=False):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 16),
            nn.ReLU(),
            nn.Linear(16, 3),
        )
        self.as_mapping = as_mapping

    def forward(self, image):
        return self.net(image)

    def training_step(self, batch, _):
        image, label = (batch["image"], batch["label"]) if self.as_mapping else batch
        return nn.functional.cross_entropy(self(image), label)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(64, 1, 6, 6, generator=generator)
        return DataLoader(TensorDataset(images, images.flatten(1)[:, :3].argmax(1)), 8)


def zero_channels(module: Module) -> list[int]:
    return [int((w.flatten(1) == 0).all(1).sum()) for w in (module.net[0].weight, module.net[4].weight)]


def pruning(**settings) -> DynamicPruning:
    return DynamicPruning(sparsity=0.6, pattern="channel", **settings)


def shapes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in module.parameters()]
