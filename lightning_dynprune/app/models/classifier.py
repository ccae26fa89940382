"""The LightningModule that trains a network for classification."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as L
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, SequentialLR
from torchmetrics.classification import MulticlassAccuracy

from lightning_dynprune.base import check_share

LR_SCHEDULES = ("none", "cosine")


class Classifier(L.LightningModule):
    r"""Train a network with the cross-entropy loss.

    .. math:: L = -\log \operatorname{softmax}(f(x))_y

    Args:
        network: maps images to class scores, ``(batch, classes)``; its state dict is that of this module without the
            prefix ``network.``.
        classes: number of classes.
        optimizer: returns an optimizer of the given parameters.
        lr_schedule: ``none``, or ``cosine``, which lowers the learning rate to zero over the training, at every step.
        lr_hold: share of the training at the full learning rate before the cosine starts.
        log_every_n_steps: optimizer steps between two logged training losses.

    Raises:
        ValueError: ``lr_schedule`` is unknown, or ``lr_hold`` is outside [0, 1).
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        optimizer: Callable[[Iterator[Parameter]], Optimizer],
        lr_schedule: str = "none",
        lr_hold: float = 0.0,
        log_every_n_steps: int = 50,
    ) -> None:
        if lr_schedule not in LR_SCHEDULES:
            raise ValueError(f"lr_schedule={lr_schedule!r} is unknown; known: {', '.join(LR_SCHEDULES)}")
        super().__init__()
        self.network = network
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.lr_hold = check_share("lr_hold", lr_hold)
        self.log_every_n_steps = log_every_n_steps
        self.val_acc = MulticlassAccuracy(classes, average="micro")
        self.test_acc = MulticlassAccuracy(classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Return the class scores, ``(batch, classes)``."""
        scores: Tensor = self.network(images)
        return scores

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch; log it only in the steps that a logger writes, since logging takes time."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        if (self.trainer.global_step + 1) % self.log_every_n_steps == 0:
            self.log("train_loss", loss.detach(), on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and accuracy of one held-out batch."""
        images, labels = batch
        scores = self(images)
        self.val_acc.update(scores, labels)
        self.log("val_loss", F.cross_entropy(scores, labels), on_epoch=True, batch_size=len(labels))
        self.log("val_acc", self.val_acc, on_epoch=True, prog_bar=True, batch_size=len(labels))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy of one test batch."""
        images, labels = batch
        self.test_acc.update(self(images), labels)
        self.log("test_acc", self.test_acc, on_epoch=True, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        """Return the optimizer, with a learning rate schedule if one is set."""
        optimizer = self.optimizer(self.network.parameters())
        if self.lr_schedule == "none":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        held = round(self.lr_hold * steps)
        schedule: LRScheduler = CosineAnnealingLR(optimizer, T_max=steps - held)
        if held:
            full = ConstantLR(optimizer, factor=1.0, total_iters=held)
            schedule = SequentialLR(optimizer, [full, schedule], milestones=[held])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
