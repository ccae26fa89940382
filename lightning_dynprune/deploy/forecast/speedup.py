"""How zeros become time, for models pruned at random: by taking channels out, or by kernels."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from lightning_dynprune.coupling import coupled_groups
from lightning_dynprune.deploy.exporting import Example
from lightning_dynprune.deploy.forecast.random_masks import RandomlyNarrowed, randomly_pruned
from lightning_dynprune.deploy.kernels import (
    DENSE,
    KERNELS,
    LayerChoice,
    SelectionCriteria,
    UnsuitableLayerError,
    benchmark_layer,
    capture_inputs,
    linear_layers,
    reason_not_measurable,
    reasons_to_stay_dense,
    replace_module,
)
from lightning_dynprune.deploy.timing import Ratio
from lightning_dynprune.patterns import NM, TargetPattern
from lightning_dynprune.targets import Target

_TOLERANCE, _MARGIN = 1e-3, 0.05
_A_LOOK = 0.1  # seconds for a layer, and for the whole model; as many as their fewest rounds take, where that is more


class SpeedupEstimator(Protocol):
    """How a pattern saves time."""

    def needs(self, dense: float) -> float:
        """Return about how many seconds one answer takes, where a dense call takes ``dense``."""

    def ratio(self, sparsity: float, example: Example, dense: float) -> tuple[Ratio | None, str]:
        """Return how many times as fast as dense the model would be, None where it stays dense; and a remark.

        Args:
            sparsity: share of the connections.
            example: inputs of one call.
            dense: seconds that a dense call takes.

        Raises:
            ValueError: the sparsity cannot be had.
        """


class SlimmingSpeedup:
    """Channels taken out.

    Args:
        model: the network, in eval mode.
        targets: its prunable parameters.
        example: inputs to follow through it.
    """

    def __init__(self, model: nn.Module, targets: Sequence[Target], example: Example) -> None:
        self.model, self.targets, self.example = model, targets, example
        self._narrow: RandomlyNarrowed | None = None

    def needs(self, dense: float) -> float:
        """Return about how many seconds one answer takes."""
        return 25 * dense + (100 * dense + 1 if self._narrow is None else 0)

    def ratio(self, sparsity: float, example: Example, dense: float) -> tuple[Ratio | None, str]:
        """Return how many times as fast as dense the model would be."""
        if self._narrow is None:
            groups = coupled_groups(self.model, self.example.as_input).groups
            self._narrow = RandomlyNarrowed(self.model, groups, self.targets)
        narrow = self._narrow.at(sparsity)
        left = sum(p.numel() for p in narrow.parameters()) / sum(p.numel() for p in self.model.parameters())
        return _beside(self.model, narrow, example), f"{100 * left:.0f} % of the parameters stay"


class KernelSpeedup:
    """Linear layers on the kernels that are fastest for their zeros.

    Args:
        model: the network, in eval mode.
        pattern: of the zeros.
        targets: its prunable parameters.
        captured: measure inside captured CUDA graphs.
    """

    def __init__(
        self, model: nn.Module, pattern: TargetPattern, targets: Sequence[Target], captured: bool = False
    ) -> None:
        self.model, self.pattern, self.targets, self.captured = model, pattern, targets, captured
        self._calls, self._besides = 60.0, 0.5  # what an answer takes: dense calls and seconds; learned as it goes

    def needs(self, dense: float) -> float:
        """Return about how many seconds one answer takes."""
        return self._calls * dense + self._besides

    def ratio(self, sparsity: float, example: Example, dense: float) -> tuple[Ratio | None, str]:
        """Return how many times as fast as dense the model would be, None where all layers stay dense."""
        if isinstance(self.pattern, NM) and abs(sparsity - (1 - self.pattern.n / self.pattern.m)) > 1e-6:
            raise ValueError(f"{self.pattern.label} has a sparsity of {1 - self.pattern.n / self.pattern.m:.2f} alone")
        if not linear_layers(self.model):
            raise ValueError("kernels stand in for Linear layers, of which the model has none")
        began = time.perf_counter()
        pruned = randomly_pruned(self.model, self.pattern, self.targets, sparsity)
        criteria = SelectionCriteria(_TOLERANCE, _MARGIN, example.tensors[0].device, self.captured)
        fast, chosen, tried = _on_kernels(pruned, example, criteria)
        ratio = _beside(pruned, fast, example, criteria) if chosen else None
        taken, self._besides = time.perf_counter() - began, 0.5 + 2 * _A_LOOK * (tried + 1)
        self._calls = max(self._calls, (taken - self._besides) / dense)
        if ratio is None:
            return None, "no kernel is faster for any layer"
        kinds = ", ".join(f"{chosen.count(label)} on {label}" for label in dict.fromkeys(chosen))
        return ratio, f"of {len(linear_layers(self.model))} Linear layers {kinds}"


def _on_kernels(pruned: nn.Module, example: Example, criteria: SelectionCriteria) -> tuple[nn.Module, list[str], int]:
    """Return a copy with a kernel for each layer that has a faster one, which, and how many layers were measured.

    Of layers that are alike in their sizes one is measured.
    """
    fast, stay = copy.deepcopy(pruned), reasons_to_stay_dense(pruned)
    called = {name: layer for name, layer in linear_layers(pruned).items() if name not in stay}
    inputs = capture_inputs(called, partial(pruned, *example.args, **example.kwargs))
    choices: dict[object, LayerChoice] = {}
    chosen = []
    for name, layer in called.items():
        if reason_not_measurable(layer, inputs[name]):
            continue
        alike = (layer.weight.shape, layer.bias is None, tuple(_shape(captured) for captured in inputs[name]))
        if alike not in choices:
            choices[alike] = benchmark_layer(name, layer, inputs[name], criteria, _A_LOOK).choice
        choice = choices[alike]
        if choice.kernel == DENSE:
            continue
        try:
            kernel = KERNELS[choice.kernel](layer, **choice.settings)
        except UnsuitableLayerError:
            continue
        fast = replace_module(fast, name, kernel)
        chosen.append(choice.label)
    return fast, chosen, len(choices)


def _beside(dense: nn.Module, other: nn.Module, example: Example, criteria: SelectionCriteria | None = None) -> Ratio:
    """Return how many times as fast as one model another is, in the same rounds."""
    criteria = criteria or SelectionCriteria(_TOLERANCE, _MARGIN, example.tensors[0].device)
    models = {DENSE: dense, "other": other}
    calls = {name: criteria.ready(partial(model, *example.args, **example.kwargs)) for name, model in models.items()}
    return criteria.measure(calls, _A_LOOK).ratio("other", DENSE)


def _shape(captured: Tensor) -> tuple[int, ...]:
    return tuple(captured.shape)
