"""One layer against every kernel that suits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from lightning_dynprune.deploy.kernels.base import KERNELS, Kernel, UnsuitableLayerError
from lightning_dynprune.deploy.kernels.input_capture import difference
from lightning_dynprune.deploy.kernels.layer_choice import DENSE, LayerChoice
from lightning_dynprune.deploy.kernels.selection_criteria import SelectionCriteria, spread
from lightning_dynprune.deploy.timing import Latency, Ratio

_FIRST_LOOK, _HOPELESS = 3, 0.8  # rounds, and the ratio to dense below which a candidate gets no more of them
_REFUSALS = (
    UnsuitableLayerError,
    RuntimeError,
    NotImplementedError,
)  # ours, and torch's where it lacks a type or a device


@dataclass(frozen=True)
class Candidate:
    """A kernel that computes what its layer does.

    Args:
        name: its registered name.
        settings: its settings.
        kernel: the kernel.
        difference: its largest difference from the layer, as a share of the layer's largest output.
    """

    name: str
    settings: Mapping[str, int]
    kernel: Kernel
    difference: float


@dataclass(frozen=True)
class LayerBenchmark:
    """What came of measuring a layer.

    Args:
        choice: the layer's choice on its own.
        chosen: the candidate chosen; None where the layer stays dense.
    """

    choice: LayerChoice
    chosen: Candidate | None = None

    @property
    def saved(self) -> float:
        """Seconds that the chosen kernel saves in a forward."""
        latencies = self.choice.latencies
        return latencies[DENSE].median - latencies[self.choice.label].median


def skipped_layer(name: str, layer: nn.Linear, why: str) -> LayerBenchmark:
    """Return the benchmark of a layer that has to stay dense."""
    return LayerBenchmark(LayerChoice(name, (layer.out_features, layer.in_features), why=why))


def benchmark_layer(
    name: str, layer: nn.Linear, inputs: list[Tensor], criteria: SelectionCriteria, seconds: float
) -> LayerBenchmark:
    """Measure every kernel that suits a layer, and choose the fastest if it is faster than the layer.

    Args:
        name: the layer's name in its model.
        layer: the layer.
        inputs: what arrives at it in one forward.
        criteria: what a kernel has to reach.
        seconds: about how long to measure.
    """
    candidates, rejections = _candidates(layer, inputs, criteria)
    choice = LayerChoice(name, (layer.out_features, layer.in_features), rejections=rejections)
    if not candidates:
        return LayerBenchmark(replace(choice, why="no kernel suits it"))
    calls = {DENSE: criteria.ready(partial(_each, layer, inputs))}
    for label in list(candidates):
        try:
            calls[label] = criteria.ready(partial(_each, candidates[label].kernel, inputs))
        except RuntimeError as error:
            del candidates[label]
            rejections[label] = f"cannot be captured: {_line(error)}"
    latencies, ratios = _two_looks(calls, criteria, seconds)
    choice = replace(choice, latencies=latencies)
    if not ratios:
        return LayerBenchmark(replace(choice, why="no kernel suits it"))
    best = max(ratios, key=lambda label: ratios[label].median)
    if not criteria.is_faster(ratios[best]):
        return LayerBenchmark(replace(choice, why=f"the best kernel, {best}, is {spread(ratios[best])}"))
    chosen = candidates[best]
    why = f"{spread(ratios[best])}, differs by {chosen.difference:.0e}"
    return LayerBenchmark(replace(choice, kernel=chosen.name, settings=chosen.settings, why=why), chosen)


def _candidates(
    layer: nn.Linear, inputs: list[Tensor], criteria: SelectionCriteria
) -> tuple[dict[str, Candidate], dict[str, str]]:
    """Return the kernels that compute what the layer does, by label, and why the others do not."""
    found: dict[str, Candidate] = {}
    rejections: dict[str, str] = {}
    expected = [layer(captured) for captured in inputs]
    for name in KERNELS.names():
        kind = KERNELS[name]
        if kind.captured_only and not criteria.captured:
            rejections[name] = "pays inside a captured CUDA graph only"
            continue
        try:
            for settings in kind.settings(layer):
                kernel = kind(layer, **settings)
                gap = difference([kernel(captured) for captured in inputs], expected)
                if gap <= criteria.tolerance:
                    found[kernel.label] = Candidate(name, settings, kernel, gap)
                else:
                    rejections[kernel.label] = f"differs by {gap:.0e}, tolerance {criteria.tolerance:.0e}"
        except _REFUSALS as error:
            rejections[name] = _line(error)
    return found, rejections


def _two_looks(
    calls: Mapping[str, Callable[[], object]], criteria: SelectionCriteria, seconds: float
) -> tuple[dict[str, Latency], dict[str, Ratio]]:
    """Measure all briefly, then those that are not hopeless for as long as there is time."""
    latencies: dict[str, Latency] = {}
    ratios: dict[str, Ratio] = {}
    rounds = criteria.measure(calls, rounds=_FIRST_LOOK)
    hopeful = {label: call for label, call in calls.items() if rounds.ratio(label, DENSE).median >= _HOPELESS}
    for looked in (rounds, criteria.measure(hopeful, seconds) if len(hopeful) > 1 else rounds):
        for label in looked.wall:
            latencies[label] = looked.latency(label, looked.clock)
            if label != DENSE:
                ratios[label] = looked.ratio(label, DENSE)
    return latencies, {label: ratio for label, ratio in ratios.items() if label in hopeful} or ratios


def _each(module: nn.Module, inputs: list[Tensor]) -> None:
    for captured in inputs:
        module(captured)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
