"""Time the forms of each layer on single samples and take the fastest: dense, or the rows of live inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.activations.linear_layers import as_linear
from lightning_dynprune.adaptive.activations.row_skipping import ByteRowSkipping, FloatRowSkipping
from lightning_dynprune.adaptive.activations.running import with_layers
from lightning_dynprune.adaptive.activations.thresholded_forward import thresholded
from lightning_dynprune.adaptive.forward_cut import batch_of
from lightning_dynprune.adaptive.labelled import device_of
from lightning_dynprune.base import call_model, map_tensors
from lightning_dynprune.deploy.kernels import SelectionCriteria
from lightning_dynprune.deploy.timing import Ratio, time_interleaved
from lightning_dynprune.targets import is_conv1d

DENSE, INT8_DENSE = "dense", "dense int8"
ROWS, BYTE_ROWS = "rows float32", "rows 8 bits"
_SAMPLES = 16  # of which every timed pass reads the inputs
_MARGIN = 0.05


@dataclass(frozen=True)
class LayerSpeed:
    """The forms of a layer that were timed, and the one that runs.

    Args:
        ratios: how many times as fast as the float32 dense layer each other form is, by its name.
        chosen: name of the form that runs.
    """

    ratios: Mapping[str, Ratio]
    chosen: str

    def __str__(self) -> str:
        each = ", ".join(f"{name} {ratio.median:.2f}" for name, ratio in self.ratios.items())
        return f"{self.chosen} (times as fast as dense: {each})"


def fastest_layers(
    model: nn.Module, thresholds: Mapping[str, float], precision: str, example: Any, seconds: float
) -> tuple[dict[str, nn.Module], dict[str, LayerSpeed]]:
    """Return the layers to replace, each by its fastest form, and all measurements.

    A layer skips inputs where that is faster by 5 % than every dense form that the precision admits.

    Args:
        model: the network, in eval mode.
        thresholds: of its layers, by name.
        precision: "int8" admits weights of 8 bits, dense and in rows.
        example: many inputs like those in use.
        seconds: approximate duration.
    """
    inputs = _layer_inputs(model, thresholds, precision, example)
    forms: dict[str, nn.Module] = {}
    speeds: dict[str, LayerSpeed] = {}
    for name, threshold in thresholds.items():
        layer, each = model.get_submodule(name), seconds / len(thresholds)
        speeds[name], form = _fastest(layer, threshold, precision, inputs[name], each)
        if form is not layer:
            forms[name] = form
    return forms, speeds


def int8_dense(model: nn.Module) -> nn.Module:
    """Return a copy whose Linears have int8 weights and quantize their inputs at each call, by torch.

    Args:
        model: the network; its Conv1Ds become Linears.
    """
    conv1ds = {name: as_linear(module) for name, module in model.named_modules() if is_conv1d(module)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao warns at each call that it moves to torchao
        # Submodules are replaced, but not the module that it is called with.
        inside = nn.Sequential(with_layers(model, conv1ds))
        quantized = torch.ao.quantization.quantize_dynamic(inside, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    form: nn.Module = quantized[0]
    return form


def faster_dense(dense: nn.Module, example: Any, seconds: float) -> nn.Module:
    """Return a dense network or its int8 form, whichever is measured to be faster for single samples.

    Args:
        dense: the network, in eval mode.
        example: many inputs like those in use.
        seconds: approximate duration.
    """
    forms = {DENSE: dense, INT8_DENSE: int8_dense(dense)}
    samples = _samples(example)
    calls = {name: _over(form, samples) for name, form in forms.items()}
    with torch.no_grad():
        ratio = time_interleaved(calls, seconds=seconds / 4, device=device_of(dense)).ratio(INT8_DENSE, DENSE)
    return forms[INT8_DENSE] if ratio.median > 1 else dense


def _fastest(
    layer: nn.Module, threshold: float, precision: str, inputs: Sequence[Tensor], seconds: float
) -> tuple[LayerSpeed, nn.Module]:
    forms: dict[str, nn.Module] = {DENSE: layer, ROWS: FloatRowSkipping(layer, threshold)}
    if precision == "int8":
        forms |= {INT8_DENSE: int8_dense(as_linear(layer)), BYTE_ROWS: ByteRowSkipping(layer, threshold)}
    device = inputs[0].device
    with torch.no_grad():
        rounds = time_interleaved(
            {name: _over(form, inputs) for name, form in forms.items()}, seconds=seconds, device=device
        )
    ratios = {name: rounds.ratio(name, DENSE) for name in forms if name != DENSE}
    dense = max(
        (name for name in (DENSE, INT8_DENSE) if name in forms), key=lambda name: rounds.ratio(name, DENSE).median
    )
    rows = max((name for name in (ROWS, BYTE_ROWS) if name in forms), key=lambda name: ratios[name].median)
    is_faster = SelectionCriteria(tolerance=0.0, margin=_MARGIN, device=device).is_faster(rounds.ratio(rows, dense))
    chosen = rows if is_faster else dense
    return LayerSpeed(ratios, chosen), forms[chosen]


def _over(form: nn.Module, inputs: Sequence[Any]) -> Callable[[], None]:
    def run() -> None:
        for each in inputs:
            call_model(form, each)

    return run


def _samples(example: Any) -> list[Any]:
    count = batch_of(example)
    chosen = sorted({number * count // _SAMPLES for number in range(_SAMPLES)})
    return [map_tensors(lambda tensor, one=one: tensor[one : one + 1], example) for one in chosen]  # type: ignore[misc]


@torch.no_grad()
def _layer_inputs(
    model: nn.Module, thresholds: Mapping[str, float], precision: str, example: Any
) -> dict[str, list[Tensor]]:
    """Return the inputs of each layer for single samples, as the layers before it skip theirs."""
    found: dict[str, list[Tensor]] = {name: [] for name in thresholds}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            (inputs,) = args or kwargs.values()
            found[name].append(inputs.clone())

        return hook

    hooks = [model.get_submodule(n).register_forward_pre_hook(keep(n), with_kwargs=True) for n in thresholds]
    try:
        with thresholded(model, thresholds, precision):
            for sample in _samples(example):
                call_model(model, sample)
    finally:
        for hook in hooks:
            hook.remove()
    return found
