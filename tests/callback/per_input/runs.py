"""A LightningModule around a small network with two places to leave it, and its data."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynprune import InputAdaptivePruning
from tests.adaptive.networks import Skipping, images

SETTINGS: dict[str, Any] = {"after": ["net.stem", "net.right"], "hidden": 8, "epochs": 4, "batch_size": 64}


class Module(L.LightningModule):
    """Trains a network with exits after its stem and its first block."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.example_input_array = torch.zeros(2, 1, 8, 8)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = net or Skipping()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.net.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 32)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> Any:
        # A generator of its own, so that a resumed epoch has the batches of the first.
        return DataLoader(TensorDataset(*images(256)), 32)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*images(128, seed=1)), 64)

    def test_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*images(128, seed=2)), 64)


def adaptive(**settings: Any) -> InputAdaptivePruning:
    """Return a callback with exits at both places and a budget."""
    return InputAdaptivePruning("early_exit", **{**SETTINGS, "budget": 0.6, **settings})
