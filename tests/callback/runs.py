"""A module, its batches and a module with two optimizers, for the tests of the callback."""

from __future__ import annotations

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset


class Net(L.LightningModule):
    """A plain user module."""

    def __init__(self, lr: float = 1e-2):
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Dropout(0.0), nn.Linear(40, 5))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=1e-2)


def loader(n: int = 128, batch_size: int = 16) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 20, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :5].argmax(1)), batch_size=batch_size)


def net(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net()


def zeros(model: nn.Module) -> int:
    return sum(int((p == 0).sum()) for name, p in model.named_parameters() if name.endswith("weight"))


class Data(L.LightningDataModule):
    """The same batches for training and validation."""

    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return loader()


class Gan(L.LightningModule):
    """Two optimizers, stepped by hand."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 20), nn.Linear(20, 20)

    def training_step(self, batch, batch_idx):
        for optimizer, layer in zip(self.optimizers(), (self.a, self.b), strict=True):
            optimizer.zero_grad()
            self.manual_backward(layer(batch[0]).square().mean())
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(self.a.parameters()), torch.optim.SGD(self.b.parameters(), lr=0.1, momentum=0.9)]


class Unsized(IterableDataset):
    """Six batches, which nobody can count beforehand."""

    def __iter__(self):
        for _ in range(6):
            yield torch.randn(4, 20), torch.randint(5, (4,))


class Half(Net):
    """Only its first layer is trained."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.net[0].parameters(), lr=0.1)
