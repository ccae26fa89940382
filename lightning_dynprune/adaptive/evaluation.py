"""Accuracy and compute of an adapted network over labelled inputs, beside those of the dense network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import AdaptiveModule, Batches
from lightning_dynprune.adaptive.labelled import device_of, labelled_batches, last_position
from lightning_dynprune.metrics import ComputePerInput, LayerDensity, PathShares


@dataclass(frozen=True)
class Evaluation:
    """Accuracy and compute of an adapted network on labelled inputs.

    Args:
        count: number of inputs.
        accuracy: share classified correctly.
        dense_accuracy: the same of the dense network.
        path_names: names of the ways through the network.
        path_shares: share of the inputs that take each way.
        path_accuracy: accuracy of the inputs of each way; NaN where there are none.
        compute_mean: mean multiply-adds of an input, as a share of the dense network's.
        compute_p5: 5th percentile of them.
        compute_p95: 95th percentile of them.
        rank_correlation: Spearman's correlation of the dense network's loss on an input with the compute spent on it;
            NaN where all inputs cost the same.
        accuracy_easy: accuracy of the half of the inputs on which the dense network's loss is lower.
        accuracy_hard: accuracy of the other half.
        layer_density: mean share of each layer that inputs are computed with, by name; empty for methods that use whole
            layers.
    """

    count: int
    accuracy: float
    dense_accuracy: float
    path_names: tuple[str, ...]
    path_shares: tuple[float, ...]
    path_accuracy: tuple[float, ...]
    compute_mean: float
    compute_p5: float
    compute_p95: float
    rank_correlation: float
    accuracy_easy: float
    accuracy_hard: float
    layer_density: Mapping[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Return all figures by name; those of a way or a layer end in its name."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, float)}
        ways = zip(self.path_names, self.path_shares, self.path_accuracy, strict=True)
        for name, share, accuracy in ways:
            own |= {f"share/{name}": share, f"accuracy/{name}": accuracy}
        return own | {f"density/{name}": density for name, density in self.layer_density.items()}


class Evaluator:
    """Collects what an adapted network does, batch by batch; sums are added over processes.

    Args:
        module: of the method.
        device: of the model.
    """

    def __init__(self, module: AdaptiveModule, device: torch.device) -> None:
        self.module = module
        self.per_input, self.paths = ComputePerInput().to(device), PathShares(len(module.path_names)).to(device)
        self.dense = PathShares(1).to(device)
        self.densities = LayerDensity(module.layer_names).to(device)

    @torch.no_grad()
    def update(self, model: nn.Module, inputs: Any, labels: Tensor) -> None:
        """Add a batch, by one forward of the dense network.

        Args:
            model: the network, in eval mode.
            inputs: of a batch.
            labels: class indices.
        """
        outcome = self.module.outcome(model, inputs)
        labels = labels[:, -1] if labels.dim() == 2 else labels
        dense, wanted = last_position(outcome.dense, labels)
        correct = outcome.scores.argmax(1) == wanted
        self.per_input.update(outcome.compute, F.cross_entropy(dense.float(), wanted, reduction="none"), correct)
        self.paths.update(outcome.path, correct)
        self.dense.update(torch.zeros_like(wanted), dense.argmax(1) == wanted)
        self.densities.update(outcome.densities)

    def compute(self) -> Evaluation:
        """Return the figures over all inputs of all processes."""
        shares, accuracies = self.paths.compute()
        figures = {name: float(value) for name, value in self.per_input.compute().items()}
        return Evaluation(
            count=int(self.dense.taken.sum()),
            dense_accuracy=float(self.dense.compute()[1].reshape(-1)[0]),
            path_names=self.module.path_names,
            path_shares=tuple(shares.reshape(-1).tolist()),
            path_accuracy=tuple(accuracies.reshape(-1).tolist()),
            layer_density={name: float(value) for name, value in self.densities.compute().items()},
            **figures,
        )


def evaluate(model: nn.Module, module: AdaptiveModule, batches: Batches, name: str = "batches") -> Evaluation:
    """Return what an adapted network does on labelled inputs.

    Args:
        model: the network, in eval mode.
        module: of the method.
        batches: pairs of inputs and labels.
        name: of the batches, for messages.

    Raises:
        ValueError: there are no inputs.
    """
    evaluator, is_empty = Evaluator(module, device_of(model)), True
    for inputs, labels in labelled_batches(batches, device_of(model), name):
        evaluator.update(model, inputs, labels)
        is_empty = False
    if is_empty:
        raise ValueError(f"{name} has no inputs; give batches of inputs and labels")
    return evaluator.compute()
