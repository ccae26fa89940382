"""Time one layer against every kernel that suits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from lightning_dynprune.deploy.kernels.base import KERNELS, Kernel, UnsuitableLayerError
from lightning_dynprune.deploy.kernels.input_capture import relative_difference
from lightning_dynprune.deploy.kernels.layer_choice import DENSE, LayerChoice
from lightning_dynprune.deploy.kernels.selection_criteria import SelectionCriteria, format_ratio
from lightning_dynprune.deploy.timing import Latency, Ratio

_SCREENING_ROUNDS, _SCREENING_RATIO = 3, 0.8  # candidates below this ratio to dense are not timed further
_REJECTING_ERRORS = (
    UnsuitableLayerError,
    RuntimeError,
    NotImplementedError,
)  # the last two: torch does not support a dtype or device


@dataclass(frozen=True)
class Candidate:
    """A kernel whose output matches its layer's.

    Args:
        name: its registered name.
        settings: its settings.
        kernel: the kernel.
        difference: its largest difference from the layer, relative to the layer's largest output.
    """

    name: str
    settings: Mapping[str, int]
    kernel: Kernel
    difference: float


@dataclass(frozen=True)
class LayerBenchmark:
    """The result of timing one layer.

    Args:
        choice: the layer's choice on its own.
        chosen: the chosen candidate; None where the layer stays dense.
    """

    choice: LayerChoice
    chosen: Candidate | None = None

    @property
    def saved(self) -> float:
        """Seconds that the chosen kernel saves in one forward pass."""
        latencies = self.choice.latencies
        return latencies[DENSE].median - latencies[self.choice.label].median


def skipped_layer(name: str, layer: nn.Linear, why: str) -> LayerBenchmark:
    """Return the result for a layer that has to stay dense."""
    return LayerBenchmark(LayerChoice(name, (layer.out_features, layer.in_features), why=why))


def benchmark_layer(
    name: str, layer: nn.Linear, inputs: list[Tensor], criteria: SelectionCriteria, seconds: float
) -> LayerBenchmark:
    """Time every kernel that suits a layer, and choose the fastest one if it is faster than the layer.

    Args:
        name: the layer's name in its model.
        layer: the layer.
        inputs: the layer's inputs in one forward pass.
        criteria: the conditions that a kernel must meet.
        seconds: approximate duration.
    """
    candidates, rejections = _candidates(layer, inputs, criteria)
    choice = LayerChoice(name, (layer.out_features, layer.in_features), rejections=rejections)
    if not candidates:
        return LayerBenchmark(replace(choice, why="no kernel suits it"))
    calls = {DENSE: criteria.prepare(partial(_call_on_each, layer, inputs))}
    for label in list(candidates):
        try:
            calls[label] = criteria.prepare(partial(_call_on_each, candidates[label].kernel, inputs))
        except RuntimeError as error:
            del candidates[label]
            rejections[label] = f"cannot be captured: {_first_line(error)}"
    latencies, ratios = _time_candidates(calls, criteria, seconds)
    choice = replace(choice, latencies=latencies)
    if not ratios:
        return LayerBenchmark(replace(choice, why="no kernel suits it"))
    best = max(ratios, key=lambda label: ratios[label].median)
    if not criteria.is_faster(ratios[best]):
        return LayerBenchmark(replace(choice, why=f"the best kernel, {best}, is {format_ratio(ratios[best])}"))
    chosen = candidates[best]
    why = f"{format_ratio(ratios[best])}, differs by {chosen.difference:.0e}"
    return LayerBenchmark(replace(choice, kernel=chosen.name, settings=chosen.settings, why=why), chosen)


def _candidates(
    layer: nn.Linear, inputs: list[Tensor], criteria: SelectionCriteria
) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Return the kernels that match the layer's output, by label, and the reasons why the others do not qualify."""
    found: dict[str, Candidate] = {}
    rejections: dict[str, str] = {}
    expected = [layer(captured) for captured in inputs]
    for name in KERNELS.names():
        kernel_class = KERNELS[name]
        if kernel_class.captured_only and not criteria.captured:
            rejections[name] = "is faster only inside a captured CUDA graph"
            continue
        try:
            for settings in kernel_class.settings(layer):
                kernel = kernel_class(layer, **settings)
                largest_difference = relative_difference([kernel(captured) for captured in inputs], expected)
                if largest_difference <= criteria.tolerance:
                    found[kernel.label] = Candidate(name, settings, kernel, largest_difference)
                else:
                    rejections[kernel.label] = (
                        f"differs by {largest_difference:.0e}, tolerance {criteria.tolerance:.0e}"
                    )
        except _REJECTING_ERRORS as error:
            rejections[name] = _first_line(error)
    return found, rejections


def _time_candidates(
    calls: Mapping[str, Callable[[], object]], criteria: SelectionCriteria, seconds: float
) -> tuple[dict[str, Latency], dict[str, Ratio]]:
    """Time all calls briefly, then the promising ones for the remaining time."""
    latencies: dict[str, Latency] = {}
    ratios: dict[str, Ratio] = {}
    rounds = criteria.measure(calls, rounds=_SCREENING_ROUNDS)
    promising = {label: call for label, call in calls.items() if rounds.ratio(label, DENSE).median >= _SCREENING_RATIO}
    for measured in (rounds, criteria.measure(promising, seconds) if len(promising) > 1 else rounds):
        for label in measured.wall:
            latencies[label] = measured.latency(label, measured.clock)
            if label != DENSE:
                ratios[label] = measured.ratio(label, DENSE)
    return latencies, {label: ratio for label, ratio in ratios.items() if label in promising} or ratios


def _call_on_each(module: nn.Module, inputs: list[Tensor]) -> None:
    for captured in inputs:
        module(captured)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
