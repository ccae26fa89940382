"""A pruned model on the kernels that measure fastest here, and never slower than it was."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_dynprune.base import call_model, check_real, nested_tensors
from lightning_dynprune.deploy.kernels.eligibility import linear_layers, reason_not_measurable, reasons_to_stay_dense
from lightning_dynprune.deploy.kernels.input_capture import capture_inputs, difference
from lightning_dynprune.deploy.kernels.layer_benchmark import LayerBenchmark, benchmark_layer, skipped_layer
from lightning_dynprune.deploy.kernels.layer_choice import DENSE, LayerChoice, replace_module, write_choice
from lightning_dynprune.deploy.kernels.selection_criteria import SelectionCriteria, spread
from lightning_dynprune.deploy.kernels.table import choice_table
from lightning_dynprune.deploy.timing import Clock, Ratio, ratio_clock


@dataclass(frozen=True)
class Accelerated:
    """A model on the kernels chosen, and what they were chosen by; ``str()`` is a table, layer by layer.

    Args:
        model: a copy in eval mode, for inference; the keys of its ``state_dict()`` are not the model's, whose layers
            :func:`~lightning_dynprune.deploy.kernels.layer_choice.restore` gives back.
        layers: the choice for each Linear.
        ratio: how many times as fast as dense the whole model is, measured in the same rounds; None where all layers
            stay dense, so that there is nothing to compare.
        difference: the largest difference from dense in the whole model's output, as a share of its largest value.
        clock: what ratios and latencies were read from (see :class:`~lightning_dynprune.deploy.timing.latency.Rounds`).
    """

    model: nn.Module
    layers: list[LayerChoice]
    ratio: Ratio | None
    difference: float
    clock: Clock

    def save_choice(self, path: str | Path) -> None:
        """Write the choice as JSON, for :func:`~lightning_dynprune.deploy.kernels.layer_choice.apply_choice`."""
        write_choice(path, self.layers)

    def __str__(self) -> str:
        return choice_table(self.layers, self.ratio, self.difference, self.clock)


def accelerate(
    model: nn.Module,
    example_input: Any,
    *,
    tolerance: float = 1e-4,
    seconds: float = 10.0,
    margin: float = 0.05,
    captured: bool = False,
) -> Accelerated:
    """Return a copy of a model in which each Linear runs on what measures fastest for the inputs it really gets.

    Every registered kernel that suits a layer's zeros is measured against the layer, in turns, with what arrives there
    in a forward of the example. A kernel is taken where it stays in ``tolerance`` and is faster beyond noise. Then the
    whole model is measured against dense: while it is slower, or its output differs too much, layers go back to dense
    one by one, those that save least, or differ most, first.

    The choice holds for this device, number of threads and size of input. Layers stay dense, and the choice says why,
    where a kernel could not stand in for them: their weight is tied or parametrized, they have hooks, or the forward
    never calls them (``out_proj`` of ``nn.MultiheadAttention``).

    Args:
        model: the dense model with zeros in its weights; it is not changed.
        example_input: what the model will get: a tensor, a tuple of arguments or a mapping of keyword arguments.
        tolerance: the largest difference from dense, as a share of the largest value of the output.
        seconds: about how long to measure: half of it the layers, half the whole model. Models that need longer for a
            few rounds take longer.
        margin: how much faster than dense a layer has to be: 0.05 means 1.05 times as fast.
        captured: measure inside captured CUDA graphs, as the model will be run; without it 2:4 is not tried.

    Raises:
        ValueError: a setting out of range, no tensor in the input or output, an output that differs from call to call,
            or autocast is on.

    Example:
        >>> model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))
        >>> _ = model[0].weight.data[:, 8:].zero_()
        >>> found = accelerate(model, torch.randn(1, 256), seconds=0.2)
        >>> found.ratio is None or found.ratio.median >= 1, found.difference <= 1e-4
        (True, True)
    """
    seconds = check_real("seconds", seconds, low=1e-3)
    example_tensors = nested_tensors(example_input)
    if not example_tensors:
        raise ValueError("example_input holds no tensor; give a tensor, a tuple of arguments or a mapping of them")
    device = example_tensors[0].device
    criteria = SelectionCriteria(tolerance, margin, device, captured)
    if torch.is_autocast_enabled(device.type):
        raise ValueError("accelerate does not run under autocast; convert the model instead, as by model.bfloat16()")
    dense = copy.deepcopy(model).eval()
    forward = partial(call_model, dense, example_input)
    with torch.no_grad():
        expected = forward()
        if not nested_tensors(expected):
            raise ValueError("the model returns no tensor, so its output cannot be compared; wrap it to return one")
        if difference(forward(), expected) > tolerance:
            raise ValueError("the model's output differs from call to call, so nothing can be compared with it")
        benchmarks = _tried(dense, example_input, criteria, seconds / 2)
        return _settled(dense, example_input, benchmarks, criteria, seconds / 2)


def _tried(
    dense: nn.Module, example_input: Any, criteria: SelectionCriteria, seconds: float
) -> dict[str, LayerBenchmark]:
    """Return the benchmark of each layer on its own."""
    layers, stay = linear_layers(dense), reasons_to_stay_dense(dense)
    called = {name: layer for name, layer in layers.items() if name not in stay}
    inputs = capture_inputs(called, partial(call_model, dense, example_input))
    benchmarks = {}
    for name, layer in layers.items():
        if why := stay.get(name) or reason_not_measurable(layer, inputs[name]):
            benchmarks[name] = skipped_layer(name, layer, why)
        else:
            benchmarks[name] = benchmark_layer(name, layer, inputs.pop(name), criteria, seconds / len(layers))
    return benchmarks


def _settled(
    dense: nn.Module,
    example_input: Any,
    benchmarks: Mapping[str, LayerBenchmark],
    criteria: SelectionCriteria,
    seconds: float,
) -> Accelerated:
    """Put the kernels into a copy, and take them out again until it is right and not slower."""
    accelerated, expected = copy.deepcopy(dense), call_model(dense, example_input)
    choices = {name: benchmark.choice for name, benchmark in benchmarks.items()}
    placed = {name: benchmark.chosen for name, benchmark in benchmarks.items() if benchmark.chosen is not None}
    for name, candidate in placed.items():
        accelerated = replace_module(accelerated, name, candidate.kernel)
    while placed:
        gap = difference(call_model(accelerated, example_input), expected)
        if gap > criteria.tolerance:
            worst = max(placed, key=lambda name: placed[name].difference)
            said = f"the model's output differed by {gap:.0e}, tolerance {criteria.tolerance:.0e}"
        else:
            ratio = _whole_ratio(dense, accelerated, example_input, criteria, seconds)
            if criteria.is_no_slower(ratio):
                return Accelerated(accelerated, list(choices.values()), ratio, gap, ratio_clock(criteria.device))
            worst = min(placed, key=lambda name: benchmarks[name].saved)
            said = f"the whole model was {spread(ratio)}"
        accelerated = replace_module(accelerated, worst, placed.pop(worst).kernel.dense())
        alone = choices[worst]
        why = f"{alone.label} alone was {alone.why}, but with it {said}"
        choices[worst] = replace(alone, kernel=DENSE, settings={}, why=why)
    return Accelerated(accelerated, list(choices.values()), None, 0.0, ratio_clock(criteria.device))


def _whole_ratio(
    dense: nn.Module, accelerated: nn.Module, example_input: Any, criteria: SelectionCriteria, seconds: float
) -> Ratio:
    models = {DENSE: dense, "accelerated": accelerated}
    calls = {name: criteria.ready(partial(call_model, model, example_input)) for name, model in models.items()}
    return criteria.measure(calls, seconds).ratio("accelerated", DENSE)
