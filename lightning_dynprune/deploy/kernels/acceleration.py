"""Replace each Linear of a pruned model by the kernel that is fastest on this machine."""

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
from lightning_dynprune.deploy.kernels.input_capture import capture_inputs, relative_difference
from lightning_dynprune.deploy.kernels.layer_benchmark import LayerBenchmark, benchmark_layer, skipped_layer
from lightning_dynprune.deploy.kernels.layer_choice import DENSE, LayerChoice, replace_module, write_choice
from lightning_dynprune.deploy.kernels.selection_criteria import SelectionCriteria, format_ratio
from lightning_dynprune.deploy.kernels.table import choice_table
from lightning_dynprune.deploy.timing import Clock, Ratio, ratio_clock


@dataclass(frozen=True)
class Accelerated:
    """A model with the chosen kernels, and the measurements behind the choice; ``str()`` is a table of the layers.

    Args:
        model: a copy in eval mode, for inference. The keys of its ``state_dict()`` differ from the original's;
            :func:`~lightning_dynprune.deploy.kernels.restore` puts the Linear layers back.
        layers: the choice for each Linear.
        ratio: how many times as fast as dense the whole model is, measured in the same rounds; None where all layers
            stay dense.
        difference: largest difference from dense in the whole model's output, relative to its largest value.
        clock: clock of ratios and latencies (see :class:`~lightning_dynprune.deploy.timing.Rounds`).
    """

    model: nn.Module
    layers: list[LayerChoice]
    ratio: Ratio | None
    difference: float
    clock: Clock

    def save_choice(self, path: str | Path) -> None:
        """Write the choice as JSON, for :func:`~lightning_dynprune.deploy.kernels.apply_choice`."""
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
    """Return a copy of a model in which each Linear uses the kernel that is fastest for its actual inputs.

    Every registered kernel that suits a layer's zeros is timed against the layer, in interleaved rounds, on the inputs
    that the layer receives in a forward pass of the example. A kernel is chosen if its output is within ``tolerance``
    and it is faster by more than noise. Then the whole model is timed against dense: while it is slower, or its output
    differs too much, layers return to dense one by one, starting with those that save the least or differ the most.

    The choice is valid for this device, number of threads and input size. A layer stays dense, with the reason in the
    result, where no kernel can replace it: its weight is tied or parametrized, it has hooks, or the forward pass never
    calls it (``out_proj`` of ``nn.MultiheadAttention``).

    Args:
        model: the dense model with zeros in its weights; it is not changed.
        example_input: a tensor, a tuple or list of arguments or a mapping of keyword arguments, like those in use.
        tolerance: largest accepted difference from dense, relative to the largest value of the output.
        seconds: approximate duration: half for the layers, half for the whole model. Models that need longer for a few
            rounds take longer.
        margin: how much faster than dense a layer must be: 0.05 means 1.05 times as fast.
        captured: time inside captured CUDA graphs, for models that will run so; without it 2:4 sparsity is not timed.

    Raises:
        ValueError: a setting is out of range, the input or the output holds no tensor, the output differs from call to
            call, or autocast is on.

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
        if relative_difference(forward(), expected) > tolerance:
            raise ValueError("the model's output differs from call to call, so nothing can be compared with it")
        benchmarks = _benchmark_layers(dense, example_input, criteria, seconds / 2)
        return _insert_kernels(dense, example_input, benchmarks, criteria, seconds / 2)


def _benchmark_layers(
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


def _insert_kernels(
    dense: nn.Module,
    example_input: Any,
    benchmarks: Mapping[str, LayerBenchmark],
    criteria: SelectionCriteria,
    seconds: float,
) -> Accelerated:
    """Insert the chosen kernels into a copy, then revert layers until it is accurate and not slower than dense."""
    accelerated, expected = copy.deepcopy(dense), call_model(dense, example_input)
    choices = {name: benchmark.choice for name, benchmark in benchmarks.items()}
    placed = {name: benchmark.chosen for name, benchmark in benchmarks.items() if benchmark.chosen is not None}
    for name, candidate in placed.items():
        accelerated = replace_module(accelerated, name, candidate.kernel)
    while placed:
        output_difference = relative_difference(call_model(accelerated, example_input), expected)
        if output_difference > criteria.tolerance:
            worst = max(placed, key=lambda name: placed[name].difference)
            reason = f"the model's output differed by {output_difference:.0e}, tolerance {criteria.tolerance:.0e}"
        else:
            ratio = _whole_ratio(dense, accelerated, example_input, criteria, seconds)
            if criteria.is_no_slower(ratio):
                return Accelerated(
                    accelerated, list(choices.values()), ratio, output_difference, ratio_clock(criteria.device)
                )
            worst = min(placed, key=lambda name: benchmarks[name].saved)
            reason = f"the whole model was {format_ratio(ratio)}"
        accelerated = replace_module(accelerated, worst, placed.pop(worst).kernel.dense())
        own_choice = choices[worst]
        why = f"{own_choice.label} alone was {own_choice.why}, but with it {reason}"
        choices[worst] = replace(own_choice, kernel=DENSE, settings={}, why=why)
    return Accelerated(accelerated, list(choices.values()), None, 0.0, ratio_clock(criteria.device))


def _whole_ratio(
    dense: nn.Module, accelerated: nn.Module, example_input: Any, criteria: SelectionCriteria, seconds: float
) -> Ratio:
    models = {DENSE: dense, "accelerated": accelerated}
    calls = {name: criteria.prepare(partial(call_model, model, example_input)) for name, model in models.items()}
    return criteria.measure(calls, seconds).ratio("accelerated", DENSE)
