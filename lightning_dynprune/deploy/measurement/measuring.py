"""Measure every variant of a model, and its baselines, in the same rounds."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_dynprune.base import check_count, check_flag, check_real
from lightning_dynprune.coupling import isolated, run_example
from lightning_dynprune.deploy.exporting import FORMATS, Example, Exported
from lightning_dynprune.deploy.measurement.macs import count_macs
from lightning_dynprune.deploy.measurement.memory import peak_memory
from lightning_dynprune.deploy.measurement.report import DeployReport, Row
from lightning_dynprune.deploy.measurement.variants import (
    Variant,
    VariantSettings,
    accelerated_variant,
    exported_variant,
    onnx_int8_variant,
    recalibrated_variant,
    slim_variant,
    torch_int8_variant,
    torch_variant,
    variant_or_reason,
)
from lightning_dynprune.deploy.timing import Rounds, gc_frozen, ratio_clock, time_interleaved

DENSE = "dense"
Evaluate = Callable[[Callable[..., Any]], float]


def measure(
    model: nn.Module,
    example_input: Any,
    *,
    dense: nn.Module | None = None,
    dense_is_trained: bool = True,
    batches: Sequence[int] = (1, 32),
    formats: Sequence[str] = (),
    rivals: bool = True,
    evaluate: Evaluate | None = None,
    calibration: Iterable[Any] | None = None,
    seconds: float = 10.0,
    tolerance: float = 1e-4,
    exports: str | Path | None = None,
) -> DeployReport:
    """Measure a pruned model, its recalibrated, slim, accelerated and exported variants, and its baselines.

    All variants are timed in the same interleaved rounds, one batch size after the other; ratios are to dense, round by
    round. A variant that cannot be made, and a figure that cannot be measured, stay in the report with the reason.

    The variants are ``dense``; ``pruned``, unchanged; ``pruned, recalibrated``, where there are batch norms; ``slim``;
    ``pruned`` and ``slim`` each with ``, accelerated``; ``dense`` and the smallest pruned variant in each format; and
    as baselines ``dense, onnx`` (ONNX Runtime), ``dense, onnx int8`` and ``dense, torch int8``.

    Args:
        model: the pruned network, on its device; it is not changed.
        example_input: a tensor, a tuple of tensors or a mapping from names to tensors, batch dimension first; its
            samples are repeated to fill a batch.
        dense: the network before pruning; None uses the model with random values in place of its zeros.
        dense_is_trained: whether the accuracy of ``dense`` is meaningful.
        batches: batch sizes of the timed calls.
        formats: names of formats to export to, see :data:`~lightning_dynprune.deploy.exporting.FORMATS`.
        rivals: also measure the baselines of other libraries.
        evaluate: a function that takes a model, or a function of its inputs, and returns its accuracy; None skips
            accuracy.
        calibration: batches of inputs for estimating batch norms, see
            :func:`~lightning_dynprune.deploy.slimming.recalibrate`.
        seconds: approximate duration of the rounds of one batch size, and of choosing its kernels. Models that need
            longer for a few rounds take longer.
        tolerance: largest difference of an output that slimming, kernels and exports may cause, relative to the largest
            output.
        exports: folder in which exported files are kept; None keeps none.

    Raises:
        ValueError: a setting is invalid.
        TypeError: an input is not a tensor.
        CouplingError: a model does not run on the example; the message names the module.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        >>> model[2].weight.data[:, 64:] = 0
        >>> report = measure(model, torch.randn(1, 64), batches=[1], rivals=False, seconds=0.1)
        >>> [row.name for row in report.rows]
        ['dense', 'pruned', 'slim', 'pruned, accelerated', 'slim, accelerated']
        >>> report["slim"].macs, report["dense"].macs
        (4736, 18944)
        >>> report["dense"].not_measured["accuracy"]
        'evaluate was not given'
    """
    seconds = check_real("seconds", seconds, low=1e-3)
    tolerance = check_real("tolerance", tolerance, low=0.0)
    rivals = check_flag("rivals", rivals)
    dense_is_trained = check_flag("dense_is_trained", dense_is_trained)
    examples = examples_by_batch(example_input, batches)
    for name in formats:
        FORMATS[name]
    sizes, device = tuple(examples), next(iter(examples.values())).tensors[0].device
    had_dense, dense_is_trained = dense is not None, dense_is_trained and dense is not None
    dense = copy.deepcopy(dense).eval() if dense is not None else _with_random_values(model)
    pruned = copy.deepcopy(model).eval()
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad(), gc_frozen():
        for network in (dense, pruned):
            with isolated(network):
                run_example(network, examples[max(sizes)].as_input)
        kept = Path(scratch) if exports is None else Path(exports)
        kept.mkdir(parents=True, exist_ok=True)
        settings = VariantSettings(examples, Path(scratch), kept, tolerance, seconds)
        variants = _make_variants(dense, pruned, settings, formats, rivals and device.type == "cpu", calibration)
        if not dense_is_trained:
            variants = [_mark_untrained(variant, dense, had_dense) for variant in variants]
        rounds = {size: _rounds(variants, size, seconds, device) for size in sizes}
        rows = [_row(variant, settings, rounds, evaluate) for variant in variants]
    if rivals and device.type != "cpu":
        note = {"everything": f"rivals run on the CPU; the model is on {device}"}
        rows += [
            Row(name, not_measured=dict(note)) for name in ("dense, onnx", "dense, onnx int8", "dense, torch int8")
        ]
    remarks = {variant.name: variant.remark for variant in variants if variant.remark}
    return DeployReport(rows, sizes, device_name(device), torch.get_num_threads(), ratio_clock(device), remarks)


def _make_variants(
    dense: nn.Module,
    pruned: nn.Module,
    settings: VariantSettings,
    formats: Sequence[str],
    rivals: bool,
    calibration: Iterable[Any] | None,
) -> list[Variant]:
    base, as_is = torch_variant(DENSE, dense, settings), torch_variant("pruned", pruned, settings)
    variants: list[Variant | None] = [base, as_is]
    variants.append(
        variant_or_reason("pruned, recalibrated", lambda: recalibrated_variant(pruned, settings, calibration))
    )
    slim = variant_or_reason("slim", lambda: slim_variant(pruned, settings))
    variants.append(slim)
    smaller = [variant for variant in (as_is, slim) if variant is not None and variant.source is not None]
    variants += [
        variant_or_reason(f"{variant.name}, accelerated", partial(accelerated_variant, variant, settings))
        for variant in smaller
    ]
    files: dict[str, Exported] = {}

    def in_format(variant: Variant, name: str) -> Variant:
        made, file = exported_variant(variant, name, settings)
        files[made.name] = file
        return made

    for name in formats:
        variants.append(variant_or_reason(f"{smaller[-1].name}, {name}", partial(in_format, smaller[-1], name)))
    for name in dict.fromkeys([*formats, *(["onnx"] if rivals else [])]):
        variants.append(variant_or_reason(f"{DENSE}, {name}", partial(in_format, base, name)))
    if rivals:
        if "dense, onnx" in files:
            made = variant_or_reason(
                "dense, onnx int8", lambda: onnx_int8_variant(files["dense, onnx"], dense, settings)
            )
        else:
            made = Variant(
                "dense, onnx int8", not_measured={"everything": "there is no ONNX file of dense to quantize"}
            )
        variants += [made, variant_or_reason("dense, torch int8", lambda: torch_int8_variant(dense, settings))]
    return [variant for variant in variants if variant is not None]


def _rounds(variants: Sequence[Variant], batch: int, seconds: float, device: torch.device) -> Rounds:
    """Time all variants that accept a batch size; one whose call raises is skipped, and the reason is recorded."""
    calls = {}
    for variant in variants:
        if batch not in variant.calls:
            continue
        try:
            variant.calls[batch]()
            calls[variant.name] = variant.calls[batch]
        except RuntimeError as error:
            if variant.name in (DENSE, "pruned"):
                raise
            variant.not_measured[f"latency {batch}"] = str(error).splitlines()[0]
    return time_interleaved(calls, seconds=seconds, device=device)


def _row(variant: Variant, settings: VariantSettings, rounds: dict[int, Rounds], evaluate: Evaluate | None) -> Row:
    row = Row(variant.name, files=variant.files, not_measured=dict(variant.not_measured))
    for batch, measured in rounds.items():
        if variant.name in measured.wall:
            row.latency[batch] = measured.latency(variant.name, measured.clock)
            row.ratio[batch] = measured.ratio(variant.name, DENSE)
        if batch in variant.models:
            row.memory[batch] = peak_memory(variant.models[batch], settings.examples[batch].as_input)
    if variant.models:
        batch = min(variant.models)
        row.macs = count_macs(variant.models[batch], settings.examples[batch].as_input) // batch
    if variant.source is not None:
        parameters = list(variant.source.parameters())
        row.parameters = sum(parameter.numel() for parameter in parameters)
        row.nonzero = sum(int(torch.count_nonzero(parameter)) for parameter in parameters)
    if "everything" in row.not_measured:
        return row
    if evaluate is None:
        row.not_measured["accuracy"] = "evaluate was not given"
    elif "accuracy" not in row.not_measured and variant.evaluated is not None:
        try:
            row.accuracy = float(evaluate(variant.evaluated))
        except (RuntimeError, ValueError) as error:
            if variant.name in (DENSE, "pruned"):
                raise
            row.not_measured["accuracy"] = str(error).splitlines()[0]
    return row


def _mark_untrained(variant: Variant, dense: nn.Module, had_dense: bool) -> Variant:
    """Record for a variant of dense that its accuracy is not meaningful."""
    if variant.source is dense:
        variant.not_measured["accuracy"] = "dense is not trained" if had_dense else "dense was not given"
    return variant


@torch.no_grad()
def _with_random_values(model: nn.Module) -> nn.Module:
    """Return a copy with random values, scaled like the rest of each parameter, in place of zeros."""
    dense = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in dense.parameters():
        zeros = parameter == 0
        if parameter.is_floating_point() and zeros.any() and not zeros.all():
            scale = parameter[~zeros].float().square().mean().sqrt()
            values = torch.randn(parameter.shape, generator=generator).to(parameter.device) * scale
            parameter.copy_(torch.where(zeros, values.to(parameter.dtype), parameter))
    return dense


def examples_by_batch(example_input: Any, batches: Sequence[int]) -> dict[int, Example]:
    """Return inputs of each batch size, made by repeating an example's samples.

    Args:
        example_input: a tensor, a tuple of tensors or a mapping from names to tensors, batch dimension first.
        batches: batch sizes.

    Raises:
        TypeError: an input is not a tensor, or a batch size is not a whole number.
        ValueError: a batch size is below 1 or repeated, or the inputs differ in their first dimension.

    Example:
        >>> examples_by_batch(torch.tensor([[1.0], [2.0]]), [3])[3].args[0].flatten()
        tensor([1., 2., 1.])
    """
    sizes = [check_count("batches", size) for size in batches]
    if not sizes or len(set(sizes)) != len(sizes):
        raise ValueError(f"batches={list(batches)} is not accepted; give one or more different numbers of samples")
    example = Example.of(example_input)
    if not example.batch:
        raise ValueError(
            "example_input: the first dimension of all its tensors must be the batch, of at least one sample; their "
            "shapes are "
            f"{[tuple(tensor.shape) for tensor in example.tensors]}"
        )
    return {size: example.repeated(size) for size in sizes}


def device_name(device: torch.device) -> str:
    """Return a device's name as reports print it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
