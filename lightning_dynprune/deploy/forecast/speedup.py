"""Measure the speed-up of randomly pruned models: by removing channels, or with kernels."""

from __future__ import annotations

import copy
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
from lightning_dynprune.deploy.timing import Ratio, wall_seconds
from lightning_dynprune.patterns import NM, TargetPattern
from lightning_dynprune.targets import Target

_TOLERANCE, _MARGIN = 1e-3, 0.05
_MEASURE_SECONDS = 0.1  # for each layer and for the whole model, if that suffices for the minimum of rounds


class SpeedupEstimator(Protocol):
    """Measures the speed-up of one pattern."""

    def estimated_seconds(self, dense: float) -> float:
        """Return the approximate seconds of one measurement, if a dense call takes ``dense`` seconds."""

    def ratio(self, sparsity: float, example: Example, dense: float) -> tuple[Ratio | None, str]:
        """Return the speed-up over dense, None where the model stays dense; and a remark.

        Args:
            sparsity: share of the connections.
            example: inputs of one call.
            dense: seconds of a dense call.

        Raises:
            ValueError: the sparsity cannot be reached.
        """


class SlimmingSpeedup:
    """Speed-up by removing channels.

    Args:
        model: the network, in eval mode.
        targets: its prunable parameters.
        example: inputs for tracing channels through it.
    """

    def __init__(self, model: nn.Module, targets: Sequence[Target], example: Example) -> None:
        self.model, self.targets, self.example = model, targets, example
        self._narrow: RandomlyNarrowed | None = None

    def estimated_seconds(self, dense: float) -> float:
        """Return the approximate seconds of one measurement."""
        return 25 * dense + (100 * dense + 1 if self._narrow is None else 0)

    def ratio(self, sparsity: float, example: Example, dense: float) -> tuple[Ratio | None, str]:
        """Return the speed-up over dense."""
        if self._narrow is None:
            groups = coupled_groups(self.model, self.example.as_input).groups
            self._narrow = RandomlyNarrowed(self.model, groups, self.targets)
        narrow = self._narrow.at(sparsity)
        left = sum(p.numel() for p in narrow.parameters()) / sum(p.numel() for p in self.model.parameters())
        return _ratio_to_dense(self.model, narrow, example), f"{100 * left:.0f} % of the parameters stay"


class KernelSpeedup:
    """Speed-up of Linear layers with the kernels that are fastest for their zeros.

    Args:
        model: the network, in eval mode.
        pattern: pattern of the zeros.
        targets: its prunable parameters.
        captured: time inside captured CUDA graphs.
    """

    def __init__(
        self, model: nn.Module, pattern: TargetPattern, targets: Sequence[Target], captured: bool = False
    ) -> None:
        self.model, self.pattern, self.targets, self.captured = model, pattern, targets, captured
        # A measurement takes so many dense calls and so many seconds; updated by each measurement.
        self._dense_calls, self._other_seconds = 60.0, 0.5

    def estimated_seconds(self, dense: float) -> float:
        """Return the approximate seconds of one measurement."""
        return self._dense_calls * dense + self._other_seconds

    def ratio(self, sparsity: float, example: Example, dense: float) -> tuple[Ratio | None, str]:
        """Return the speed-up over dense, None where all layers stay dense."""
        if isinstance(self.pattern, NM) and abs(sparsity - (1 - self.pattern.n / self.pattern.m)) > 1e-6:
            raise ValueError(f"{self.pattern.label} has a sparsity of {1 - self.pattern.n / self.pattern.m:.2f} alone")
        if not linear_layers(self.model):
            raise ValueError("kernels replace Linear layers, and the model has none")
        started = wall_seconds()
        pruned = randomly_pruned(self.model, self.pattern, self.targets, sparsity)
        criteria = SelectionCriteria(_TOLERANCE, _MARGIN, example.tensors[0].device, self.captured)
        fast, chosen, num_timed = _on_kernels(pruned, example, criteria)
        ratio = _ratio_to_dense(pruned, fast, example, criteria) if chosen else None
        taken, self._other_seconds = wall_seconds() - started, 0.5 + 2 * _MEASURE_SECONDS * (num_timed + 1)
        self._dense_calls = max(self._dense_calls, (taken - self._other_seconds) / dense)
        if ratio is None:
            return None, "no kernel is faster for any layer"
        kernel_counts = ", ".join(f"{chosen.count(label)} on {label}" for label in dict.fromkeys(chosen))
        return ratio, f"of {len(linear_layers(self.model))} Linear layers {kernel_counts}"


def _on_kernels(pruned: nn.Module, example: Example, criteria: SelectionCriteria) -> tuple[nn.Module, list[str], int]:
    """Return a copy with kernels where they are faster, their labels, and the number of layers that were timed.

    Of layers with equal sizes only one is timed.
    """
    fast, stay = copy.deepcopy(pruned), reasons_to_stay_dense(pruned)
    called = {name: layer for name, layer in linear_layers(pruned).items() if name not in stay}
    inputs = capture_inputs(called, partial(pruned, *example.args, **example.kwargs))
    choices: dict[object, LayerChoice] = {}
    chosen = []
    for name, layer in called.items():
        if reason_not_measurable(layer, inputs[name]):
            continue
        signature = (layer.weight.shape, layer.bias is None, tuple(_shape(captured) for captured in inputs[name]))
        if signature not in choices:
            choices[signature] = benchmark_layer(name, layer, inputs[name], criteria, _MEASURE_SECONDS).choice
        choice = choices[signature]
        if choice.kernel == DENSE:
            continue
        try:
            kernel = KERNELS[choice.kernel](layer, **choice.settings)
        except UnsuitableLayerError:
            continue
        fast = replace_module(fast, name, kernel)
        chosen.append(choice.label)
    return fast, chosen, len(choices)


def _ratio_to_dense(
    dense: nn.Module, other: nn.Module, example: Example, criteria: SelectionCriteria | None = None
) -> Ratio:
    """Return the speed-up of one model over another, timed in the same rounds."""
    criteria = criteria or SelectionCriteria(_TOLERANCE, _MARGIN, example.tensors[0].device)
    models = {DENSE: dense, "other": other}
    calls = {name: criteria.prepare(partial(model, *example.args, **example.kwargs)) for name, model in models.items()}
    return criteria.measure(calls, _MEASURE_SECONDS).ratio("other", DENSE)


def _shape(captured: Tensor) -> tuple[int, ...]:
    return tuple(captured.shape)
