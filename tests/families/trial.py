"""Slim a network of a family in a Trainer and by ``deploy.slim``, and compare the slim with the masked network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader

from lightning_dynprune import DynamicPruning
from lightning_dynprune.base import nested_tensors
from lightning_dynprune.coupling import CouplingError
from lightning_dynprune.deploy import load, save, slim
from tests.families.family import Family
from tests.training import trainer

STEPS = 20
# Outputs of networks of this size in float32 differ by rounding alone.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Outcome:
    """What came of slimming a network.

    Attributes:
        kept: share of the parameters that were kept; None if slimming was refused.
        refusal: the message of the refusal.
    """

    kept: float | None = None
    refusal: str = ""


class Task(L.LightningModule):
    """Trains a network of a family on one batch."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family, self.network = family, family.build()

    def forward(self, **inputs: Any) -> Any:
        return self.network(**inputs)

    def training_step(self, batch: Mapping[str, Tensor], _: int) -> Tensor:
        return self.family.loss(self(**batch), batch)

    def configure_optimizers(self) -> Optimizer:
        return AdamW(self.parameters(), 1e-2)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([dict(self.family.batch)] * STEPS, batch_size=None)  # type: ignore[arg-type]


class Masked(L.Callback):
    """Copies the network and its optimizer at the end of training, before the network is slimmed."""

    network: nn.Module
    optimizer: Optimizer

    def on_train_end(self, trainer: L.Trainer, pl_module: Task) -> None:
        self.network, self.optimizer = copy.deepcopy((pl_module.network, trainer.optimizers[0]))


def slim_in_trainer(family: Family, pattern: str, folder: Path) -> tuple[Outcome, Masked | None]:
    """Train with ``slim="end"``; return the outcome, and the network as it was with its masks."""
    task, masked = Task(family), Masked()
    try:
        run = _fit(task, [masked, pruning(family, pattern, slim="end")], folder)
    except CouplingError as error:
        return Outcome(refusal=str(error)), None
    return _checked(family, masked.network, task.network, run.optimizers[0], folder), masked


def slim_after_training(family: Family, pattern: str, masked: Masked | None, folder: Path) -> Outcome:
    """Slim by ``deploy.slim`` a network that was pruned in training, or the dense one where that was refused."""
    network, optimizer = (family.build(), None) if masked is None else (masked.network, masked.optimizer)
    expected = copy.deepcopy(network)
    try:
        report = slim(network, family.batch, optimizer)
    except CouplingError as error:
        return Outcome(refusal=str(error))
    if optimizer is None:
        return Outcome(refusal="; ".join(report.left_out.values()))
    return _checked(family, expected, network, optimizer, folder)


def pruning(family: Family, pattern: str, **settings: Any) -> DynamicPruning:
    """Return the pruning of a family: an equal share of each group, so that the sizes do not depend on rounding."""
    return DynamicPruning(
        sparsity=family.sparsity[pattern],
        strategy="magnitude",
        threshold={"name": "topk", "scope": "uniform"},
        **{"pattern": pattern, **family.settings.get(pattern, {}), **settings},
    )


def _fit(task: Task, callbacks: list[L.Callback], folder: Path) -> L.Trainer:
    run = trainer(callbacks, folder, max_epochs=1)
    run.fit(task)
    return run


def _checked(family: Family, masked: nn.Module, slimmed: nn.Module, optimizer: Optimizer, folder: Path) -> Outcome:
    """Check that a slim network computes, generates, is saved and trains on as the masked one; return its size."""
    assert numel(slimmed) < numel(masked), "no parameter was removed"
    assert_equal_outputs(family, masked, slimmed)
    if family.generate is not None:
        assert torch.equal(*(_generated(family, network) for network in (masked, slimmed)))
    save(slimmed, folder / "slim.safetensors")
    assert_equal_outputs(family, slimmed, load(family.build(), folder / "slim.safetensors"), exact=True)
    kept = numel(slimmed) / numel(masked)
    optimizer.zero_grad()
    before = [parameter.detach().clone() for parameter in slimmed.parameters()]
    family.loss(slimmed.train()(**family.batch), family.batch).backward()
    optimizer.step()
    for parameter in slimmed.parameters():
        moments = [slot for slot in optimizer.state[parameter].values() if slot.dim()]
        assert all(slot.shape == parameter.shape for slot in moments)
    assert any(not torch.equal(a, b) for a, b in zip(before, slimmed.parameters(), strict=True))
    return Outcome(kept)


def assert_equal_outputs(family: Family, expected: nn.Module, found: nn.Module, exact: bool = False) -> None:
    """Assert that two networks return the same for the batch; a cache of keys and values may lack heads."""
    pairs = list(zip(_outputs(family, expected), _outputs(family, found), strict=True))
    assert pairs
    for a, b in pairs:
        if a.shape == b.shape:
            assert torch.allclose(a, b, rtol=0, atol=0 if exact else TOLERANCE * max(1, float(a.abs().max())))


@torch.no_grad()
def _outputs(family: Family, network: nn.Module) -> list[Tensor]:
    return nested_tensors(network.eval()(**family.batch))


@torch.no_grad()
def _generated(family: Family, network: Any) -> Tensor:
    given = {name: value for name, value in family.batch.items() if name != "labels"}
    tokens: Tensor = network.eval().generate(**given, **(family.generate or {}))
    return tokens


def numel(network: nn.Module) -> int:
    """Return the number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
