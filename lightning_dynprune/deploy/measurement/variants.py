"""The forms in which one model can be run: each says what can be measured of it, and why the rest cannot."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import largest_magnitude, nested_tensors
from lightning_dynprune.coupling import isolated, run_example
from lightning_dynprune.deploy.compact import save_compact, write_dense
from lightning_dynprune.deploy.exporting import FORMATS, Example, Exported, export, quantize
from lightning_dynprune.deploy.kernels import accelerate
from lightning_dynprune.deploy.slimming import norms_of, recalibrate, save, slim

OUTSIDE = "it runs outside torch"
COMPACT = "a compact file holds the weights of a torch model"


@dataclass
class Form:
    """One way to run a model.

    Args:
        name: as tables print it.
        calls: batch -> a call on that many samples.
        models: batch -> what runs, where that is a torch module whose operators and memory can be followed.
        source: whose parameters it has.
        evaluated: what ``evaluate`` is given; None where there is nothing to evaluate.
        files: kind of file -> its bytes.
        remark: what was chosen, removed or exported, in words.
        why_not: figure -> why it cannot be measured.
    """

    name: str
    calls: dict[int, Callable[[], object]] = field(default_factory=dict)
    models: dict[int, nn.Module] = field(default_factory=dict)
    source: nn.Module | None = None
    evaluated: Callable[..., Any] | None = None
    files: dict[str, int] = field(default_factory=dict)
    remark: str = ""
    why_not: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What all forms have in common.

    Args:
        examples: batch -> inputs of that many samples.
        folder: where files are written to be weighed.
        exports: where files for other runtimes stay.
        tolerance: largest difference of an output, over the largest output.
        seconds: about how long choosing kernels may take, for one batch.
    """

    examples: Mapping[int, Example]
    folder: Path
    exports: Path
    tolerance: float
    seconds: float

    @property
    def batches(self) -> tuple[int, ...]:
        """Samples of the calls."""
        return tuple(self.examples)

    @property
    def example(self) -> Any:
        """Inputs of the smallest batch, as the parts of this package take them; one sample shows as much as many."""
        return given(self.examples[min(self.examples)])


def given(example: Example) -> Any:
    """Return inputs as an argument: a mapping where some go by name, else a tuple."""
    return dict(example.kwargs) if example.kwargs else example.args


def plain(name: str, model: nn.Module, setting: Setting) -> Form:
    """Return a torch model as it is, with the files that its weights take."""
    calls = {batch: partial(model, *each.args, **each.kwargs) for batch, each in setting.examples.items()}
    path = setting.folder / f"{name}.safetensors"
    files = {"plain": write_dense(model.state_dict(), path)}
    form = Form(name, dict(calls), dict.fromkeys(setting.batches, model), model, model, files)
    return _compact(form, model, setting)


def recalibrated(model: nn.Module, setting: Setting, batches: Iterable[Any] | None) -> Form | None:
    """Return a model with its batch norms estimated anew; None for a model without any."""
    if not norms_of(model):
        return None
    form = Form("pruned, recalibrated")
    if batches is None:
        return _nothing(form, "no batches to estimate batch norms from were given")
    model = copy.deepcopy(model)
    count = recalibrate(model, batches)
    form = plain(form.name, model, setting)
    form.remark = f"{count} batch norms estimated anew"
    return form


def slimmed(model: nn.Module, setting: Setting) -> Form:
    """Return a model without the channels and heads that do nothing."""
    model = copy.deepcopy(model)
    report = slim(model, setting.example, tolerance=setting.tolerance)
    if report.parameters[0] == report.parameters[1]:
        return _nothing(Form("slim"), "no channel and no head can be removed")
    form = plain("slim", model, setting)
    save(model, path := setting.folder / "slim.safetensors")
    form.files["plain"] = path.stat().st_size
    form.remark = str(report)
    return form


def accelerated(form: Form, setting: Setting) -> Form:
    """Return a form on the kernels that are fastest for each batch."""
    assert form.source is not None
    found = Form(f"{form.name}, accelerated", source=form.source)
    found.why_not["files"] = f"its kernels are made from the file of {form.name!r}"
    if not any(isinstance(module, nn.Linear) for module in form.source.modules()):
        return _nothing(found, "kernels replace Linear layers, of which the model has none")
    remarks = []
    for batch, example in setting.examples.items():
        chosen = accelerate(form.source, given(example), tolerance=setting.tolerance, seconds=setting.seconds)
        remarks.append(f"batch {batch}:\n{chosen}")
        if chosen.ratio is None:
            found.why_not |= dict.fromkeys((f"latency {batch}", f"memory {batch}"), "all layers stay dense")
            continue
        found.models[batch] = chosen.model
        found.calls[batch] = partial(chosen.model, *example.args, **example.kwargs)
    found.remark = "\n\n".join(remarks)
    if not found.models:
        return _nothing(found, "no kernel is faster than dense for any layer, so all stay dense")
    found.evaluated = found.models[max(found.models)]
    return found


def exported(form: Form, format: str, setting: Setting) -> tuple[Form, Exported]:
    """Return a form as a file in another runtime, and that file."""
    assert form.source is not None
    tolerance = setting.tolerance * max(1.0, _largest_output(form.source, setting))
    path = setting.exports / f"{form.name}{FORMATS[format].suffix}"
    file = export(form.source, setting.example, format, path, tolerance=tolerance)
    return _in_its_runtime(f"{form.name}, {format}", file, form.source, setting), file


def int8_by_onnx(file: Exported, source: nn.Module, setting: Setting) -> Form:
    """Return an ONNX file with 8-bit weights."""
    return _in_its_runtime("dense, onnx int8", quantize(file), source, setting)


def int8_by_torch(source: nn.Module, setting: Setting) -> Form:
    """Return a model whose Linear layers have 8-bit weights, by torch's own dynamic quantisation."""
    form = Form("dense, torch int8", source=source)
    if not any(isinstance(module, nn.Linear) for module in source.modules()):
        return _nothing(form, "torch quantises Linear layers call by call, of which the model has none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao says at each call that it moves to torchao
        from torch.ao.quantization import quantize_dynamic

        # What is handed over is never replaced itself, only what is inside it.
        inside = nn.Sequential(copy.deepcopy(source)) if type(source) is nn.Linear else copy.deepcopy(source)
        model = quantize_dynamic(inside, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    form.calls = {batch: partial(model, *each.args, **each.kwargs) for batch, each in setting.examples.items()}
    form.evaluated = model
    form.why_not |= {
        "files": "torch writes packed 8-bit weights as a pickle",
        "memory": "packed weights are no tensors that could be counted",
        "macs": "8-bit operators are not counted",
    }
    return form


def attempted(name: str, make: Callable[[], Form | None]) -> Form | None:
    """Return a form, or one that says why it cannot be made: the others are worth measuring all the same."""
    try:
        return make()
    except Exception as error:
        return _nothing(Form(name), f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


def _in_its_runtime(name: str, file: Exported, source: nn.Module, setting: Setting) -> Form:
    form = Form(name, source=source, files={"plain": file.bytes}, remark=str(file))
    run = file.runner()

    def evaluated(*inputs: Tensor) -> Any:
        outputs = run(*inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    form.evaluated = evaluated
    for batch in setting.batches:
        try:
            form.calls[batch] = file.caller(batch)
        except ValueError as error:
            form.why_not[f"latency {batch}"] = str(error)
    form.why_not |= {"memory": OUTSIDE, "macs": OUTSIDE, "compact files": COMPACT}
    return form


def _compact(form: Form, model: nn.Module, setting: Setting) -> Form:
    path = setting.folder / f"{form.name}.compact.safetensors"
    form.files["compact"] = save_compact(model, path)
    try:
        form.files["compact zstd"] = save_compact(model, path, zstd=True)
    except ImportError as error:
        form.why_not["compact zstd file"] = str(error)
    return form


def _nothing(form: Form, why: str) -> Form:
    form.calls.clear()
    form.source = form.evaluated = None
    form.why_not = {"everything": why}
    return form


def _largest_output(model: nn.Module, setting: Setting) -> float:
    with isolated(model), torch.no_grad():
        return max(map(largest_magnitude, nested_tensors(run_example(model, setting.example))), default=1.0)
