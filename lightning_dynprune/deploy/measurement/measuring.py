"""One table for one model: every form it can be run in, measured in the same rounds beside its rivals."""

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
    Form,
    Setting,
    accelerated,
    attempted,
    exported,
    given,
    int8_by_onnx,
    int8_by_torch,
    plain,
    recalibrated,
    slimmed,
)
from lightning_dynprune.deploy.timing import Rounds, clock_of, settled_heap, take_turns

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
    """Return what a pruned model costs as it is, recalibrated, slim, accelerated and exported, beside dense and rivals.

    All forms take turns in the same rounds, one batch size after the other, and a ratio is to dense in the same round.
    A form that cannot be made, and a figure that cannot be measured, stay in the report with the reason.

    Forms: ``dense``; ``pruned``, as it is; ``pruned, recalibrated``, where there are batch norms; ``slim``; each of
    ``pruned`` and ``slim`` with ``, accelerated``; ``dense`` and the smallest of the pruned ones in each format; and
    the rivals, which are dense: ``dense, onnx`` (ONNX Runtime), ``dense, onnx int8`` and ``dense, torch int8``.

    Args:
        model: the pruned network, on its device; it is not changed.
        example_input: a tensor, a tuple of tensors or a mapping from names to tensors, samples first; its samples are
            repeated to make up a batch.
        dense: the network before pruning; None stands for the model with values in place of its zeros.
        dense_is_trained: the accuracy of ``dense`` means something.
        batches: samples of the calls that are measured.
        formats: names of formats to export to, see :data:`~lightning_dynprune.deploy.exporting.FORMATS`.
        rivals: measure the rivals too.
        evaluate: given a model or a function of its inputs, returns the accuracy; None leaves it out.
        calibration: batches of inputs to estimate batch norms from, see
            :func:`~lightning_dynprune.deploy.slimming.norm_statistics.recalibrate`.
        seconds: about how long the turns of one batch size take, and how long choosing its kernels may take. Models
            that need longer for a few rounds take longer.
        tolerance: largest difference of an output, over the largest output, that slimming, kernels and exports may
            make.
        exports: folder in which exported files stay; None keeps none.

    Raises:
        ValueError: a setting is not accepted.
        TypeError: an input is no tensor.
        CouplingError: a model does not run on the example; the message names the module.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        >>> model[2].weight.data[:, 64:] = 0
        >>> report = measure(model, torch.randn(1, 64), batches=[1], rivals=False, seconds=0.1)
        >>> [row.name for row in report.rows]
        ['dense', 'pruned', 'slim', 'pruned, accelerated', 'slim, accelerated']
        >>> report["slim"].macs, report["dense"].macs
        (4736, 18944)
        >>> report["dense"].why_not["accuracy"]
        'no evaluate was given'
    """
    seconds = check_real("seconds", seconds, low=1e-3)
    tolerance = check_real("tolerance", tolerance, low=0.0)
    rivals = check_flag("rivals", rivals)
    dense_is_trained = check_flag("dense_is_trained", dense_is_trained)
    examples = batched(example_input, batches)
    for name in formats:
        FORMATS[name]
    sizes, device = tuple(examples), next(iter(examples.values())).tensors[0].device
    had_dense, dense_is_trained = dense is not None, dense_is_trained and dense is not None
    dense = copy.deepcopy(dense).eval() if dense is not None else _filled(model)
    pruned = copy.deepcopy(model).eval()
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad(), settled_heap():
        for network in (dense, pruned):
            with isolated(network):
                run_example(network, given(examples[max(sizes)]))
        kept = Path(scratch) if exports is None else Path(exports)
        kept.mkdir(parents=True, exist_ok=True)
        setting = Setting(examples, Path(scratch), kept, tolerance, seconds)
        forms = _forms(dense, pruned, setting, formats, rivals and device.type == "cpu", calibration)
        if not dense_is_trained:
            forms = [_untrained(form, dense, had_dense) for form in forms]
        rounds = {size: _rounds(forms, size, seconds, device) for size in sizes}
        rows = [_row(form, setting, rounds, evaluate) for form in forms]
    if rivals and device.type != "cpu":
        note = {"everything": f"rivals run on the CPU; the model is on {device}"}
        rows += [Row(name, why_not=dict(note)) for name in ("dense, onnx", "dense, onnx int8", "dense, torch int8")]
    remarks = {form.name: form.remark for form in forms if form.remark}
    return DeployReport(rows, sizes, described(device), torch.get_num_threads(), clock_of(device), remarks)


def _forms(
    dense: nn.Module,
    pruned: nn.Module,
    setting: Setting,
    formats: Sequence[str],
    rivals: bool,
    calibration: Iterable[Any] | None,
) -> list[Form]:
    base, as_is = plain(DENSE, dense, setting), plain("pruned", pruned, setting)
    forms: list[Form | None] = [base, as_is]
    forms.append(attempted("pruned, recalibrated", lambda: recalibrated(pruned, setting, calibration)))
    slim = attempted("slim", lambda: slimmed(pruned, setting))
    forms.append(slim)
    smaller = [form for form in (as_is, slim) if form is not None and form.source is not None]
    forms += [attempted(f"{form.name}, accelerated", partial(accelerated, form, setting)) for form in smaller]
    files: dict[str, Exported] = {}

    def in_format(form: Form, name: str) -> Form:
        made, file = exported(form, name, setting)
        files[made.name] = file
        return made

    for name in formats:
        forms.append(attempted(f"{smaller[-1].name}, {name}", partial(in_format, smaller[-1], name)))
    for name in dict.fromkeys([*formats, *(["onnx"] if rivals else [])]):
        forms.append(attempted(f"{DENSE}, {name}", partial(in_format, base, name)))
    if rivals:
        if "dense, onnx" in files:
            made = attempted("dense, onnx int8", lambda: int8_by_onnx(files["dense, onnx"], dense, setting))
        else:
            made = Form("dense, onnx int8", why_not={"everything": "there is no ONNX file of dense to quantise"})
        forms += [made, attempted("dense, torch int8", lambda: int8_by_torch(dense, setting))]
    return [form for form in forms if form is not None]


def _rounds(forms: Sequence[Form], batch: int, seconds: float, device: torch.device) -> Rounds:
    """Measure all forms that take a batch; one whose call raises is left out, with the reason."""
    calls = {}
    for form in forms:
        if batch not in form.calls:
            continue
        try:
            form.calls[batch]()
            calls[form.name] = form.calls[batch]
        except RuntimeError as error:
            if form.name in (DENSE, "pruned"):
                raise
            form.why_not[f"latency {batch}"] = str(error).splitlines()[0]
    return take_turns(calls, seconds=seconds, device=device)


def _row(form: Form, setting: Setting, rounds: dict[int, Rounds], evaluate: Evaluate | None) -> Row:
    row = Row(form.name, files=form.files, why_not=dict(form.why_not))
    for batch, measured in rounds.items():
        if form.name in measured.wall:
            row.latency[batch] = measured.latency(form.name, measured.clock)
            row.ratio[batch] = measured.ratio(form.name, DENSE)
        if batch in form.models:
            row.memory[batch] = peak_memory(form.models[batch], given(setting.examples[batch]))
    if form.models:
        batch = min(form.models)
        row.macs = count_macs(form.models[batch], given(setting.examples[batch])) // batch
    if form.source is not None:
        parameters = list(form.source.parameters())
        row.parameters = sum(parameter.numel() for parameter in parameters)
        row.nonzero = sum(int(torch.count_nonzero(parameter)) for parameter in parameters)
    if "everything" in row.why_not:
        return row
    if evaluate is None:
        row.why_not["accuracy"] = "no evaluate was given"
    elif "accuracy" not in row.why_not and form.evaluated is not None:
        try:
            row.accuracy = float(evaluate(form.evaluated))
        except (RuntimeError, ValueError) as error:
            if form.name in (DENSE, "pruned"):
                raise
            row.why_not["accuracy"] = str(error).splitlines()[0]
    return row


def _untrained(form: Form, dense: nn.Module, had_dense: bool) -> Form:
    """Say of a form of dense that its accuracy would mean nothing."""
    if form.source is dense:
        form.why_not["accuracy"] = "dense is not trained" if had_dense else "no dense network was given"
    return form


@torch.no_grad()
def _filled(model: nn.Module) -> nn.Module:
    """Return a copy in which random values of each parameter's own scale stand in the place of zeros."""
    dense = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in dense.parameters():
        zeros = parameter == 0
        if parameter.is_floating_point() and zeros.any() and not zeros.all():
            scale = parameter[~zeros].float().square().mean().sqrt()
            values = torch.randn(parameter.shape, generator=generator).to(parameter.device) * scale
            parameter.copy_(torch.where(zeros, values.to(parameter.dtype), parameter))
    return dense


def batched(example_input: Any, batches: Sequence[int]) -> dict[int, Example]:
    """Return inputs of each number of samples: an example's own, over and over.

    Args:
        example_input: a tensor, a tuple of tensors or a mapping from names to tensors, samples first.
        batches: numbers of samples.

    Raises:
        TypeError: an input is no tensor, or a number no whole one.
        ValueError: a number is below 1 or given twice, or the inputs differ in their first axis.

    Example:
        >>> batched(torch.tensor([[1.0], [2.0]]), [3])[3].args[0].flatten()
        tensor([1., 2., 1.])
    """
    sizes = [check_count("batches", size) for size in batches]
    if not sizes or len(set(sizes)) != len(sizes):
        raise ValueError(f"batches={list(batches)} is not accepted; give one or more different numbers of samples")
    example = Example.of(example_input)
    if not example.batch:
        raise ValueError(
            "example_input: the first axis of all its tensors has to be the samples, at least one; they are shaped "
            f"{[tuple(tensor.shape) for tensor in example.tensors]}"
        )
    return {size: example.repeated(size) for size in sizes}


def described(device: torch.device) -> str:
    """Return a device as reports name it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
