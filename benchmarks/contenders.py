"""Contenders of the training benchmarks: this package, other pruning code and no pruning, each at 90 % sparsity."""

from __future__ import annotations

from collections.abc import Callable

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelPruning
from torch import nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import prune

from lightning_dynprune import DynamicPruning
from lightning_dynprune.schedules import OneShot

SPARSITY = 0.9
WARM_STEPS = 3  # of the first, short epoch


def named_weights(network: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the weights that every contender prunes: those of all linear layers."""
    return [(layer, "weight") for layer in network.modules() if isinstance(layer, nn.Linear)]


def zeros(network: nn.Module) -> float:
    """Return the share of zeros among the weights that the forward pass uses."""
    layers = [layer for layer, _ in named_weights(network)]
    with torch.no_grad():
        nonzero = sum(int(layer.weight.count_nonzero()) for layer in layers)
        return 1 - nonzero / sum(layer.weight.numel() for layer in layers)


class AfterFirstEpoch(L.Callback):
    """Callback that prunes at the end of epoch 0, so that every optimizer first steps with dense gradients."""

    def __init__(self, prune_now: Callable[[], object]) -> None:
        self.prune_now = prune_now

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prune at the end of epoch 0, when ModelPruning does."""
        if trainer.current_epoch == 0:
            self.prune_now()


def nothing(network: nn.Module) -> list[L.Callback]:
    """Train densely."""
    return []


def dynprune(network: nn.Module) -> list[L.Callback]:
    """Prune once, after the first steps, by ``DynamicPruning``; the masks stay fixed from then on."""
    return [DynamicPruning(schedule=OneShot(SPARSITY, begin=WARM_STEPS))]


def dynprune_by_magnitude(network: nn.Module) -> list[L.Callback]:
    """Prune once by ``DynamicPruning`` with ``magnitude``, which observes no steps between updates."""
    return [DynamicPruning(strategy="magnitude", schedule=OneShot(SPARSITY, begin=WARM_STEPS))]


def torch_prune(network: nn.Module) -> list[L.Callback]:
    """Prune after the first, short epoch by ``torch.nn.utils.prune``."""
    weights = named_weights(network)
    return [AfterFirstEpoch(lambda: prune.global_unstructured(weights, prune.L1Unstructured, amount=SPARSITY))]


def model_pruning(network: nn.Module) -> list[L.Callback]:
    """Prune after the first, short epoch by Lightning's callback."""
    return [
        ModelPruning(
            "l1_unstructured",
            named_weights(network),
            amount=SPARSITY,
            use_global_unstructured=True,
            use_lottery_ticket_hypothesis=False,
            apply_pruning=lambda epoch: epoch == 0,
        )
    ]


def ao_pruning(network: nn.Module) -> list[L.Callback]:
    """Prune after the first, short epoch by ``torch.ao.pruning``, entry by entry."""
    sparsifier = WeightNormSparsifier(SPARSITY, sparse_block_shape=(1, 1), zeros_per_block=1)
    names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    sparsifier.prepare(network, config=[{"tensor_fqn": f"{name}.weight"} for name in names])
    return [AfterFirstEpoch(sparsifier.step)]


BASE = "no pruning"
CONTENDERS: dict[str, Callable[[nn.Module], list[L.Callback]]] = {
    BASE: nothing,
    "no pruning, again": nothing,
    "DynamicPruning": dynprune,
    "DynamicPruning, magnitude": dynprune_by_magnitude,
    "torch.nn.utils.prune": torch_prune,
    "Lightning ModelPruning": model_pruning,
    "torch.ao.pruning": ao_pruning,
}
