"""Logged figures of an adapted network in a Trainer's validation and test."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_dynprune.adaptive import PREFIX, AdaptiveModule, Evaluation, Evaluator, split_pair
from lightning_dynprune.base import map_tensors
from lightning_dynprune.callback.trainer_batches import SplitBatch


class EvaluationLogger:
    """Collects what each input costs during a validation or test, and logs it at the end.

    Args:
        name: of the callback; None: it is the only one of its Trainer.
        split: returns inputs and labels of a batch; None: batches are pairs.

    Attributes:
        evaluation: of the last validation or test; None before.
    """

    def __init__(self, name: str | None, split: SplitBatch | None) -> None:
        self.prefix = "dynprune/adaptive/" if name is None else f"dynprune/{name}/adaptive/"
        self.split = split
        self.evaluation: Evaluation | None = None
        self._evaluator: Evaluator | None = None

    def begin(self, network: nn.Module, device: torch.device) -> None:
        """Start an evaluation.

        Args:
            network: with the method's module, or without: then nothing is logged.
            device: of the network.
        """
        module = getattr(network, PREFIX, None)
        self._evaluator = Evaluator(module, device) if isinstance(module, AdaptiveModule) else None

    def update(self, network: nn.Module, batch: Any, name: str) -> None:
        """Add a batch, by one more forward of the dense network.

        Args:
            network: in eval mode.
            batch: as the LightningModule gets it.
            name: of the batches, for messages.
        """
        if self._evaluator is not None:
            inputs, labels = split_pair(batch if self.split is None else self.split(batch), name)
            # A network that works in place would change what the Trainer passes to others.
            self._evaluator.update(network, map_tensors(lambda tensor: tensor.clone(), inputs), labels)

    def log(self, module: LightningModule, is_logging: bool) -> None:
        """Log all figures.

        Args:
            module: is evaluated.
            is_logging: whether its Trainer takes logged values.
        """
        if self._evaluator is None:
            return
        self.evaluation, self._evaluator = self._evaluator.compute(), None
        if is_logging:
            figures = {f"{self.prefix}{name}": value for name, value in self.evaluation.figures().items()}
            # The same in all processes; sync_dist=True only avoids Lightning's warning that they might differ.
            module.log_dict(figures, on_step=False, on_epoch=True, sync_dist=True)
