"""Make the variants in which a model can be run, each with what can be measured of it and why the rest cannot."""

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
from lightning_dynprune.deploy.slimming import batch_norms, recalibrate, save, slim

OUTSIDE_TORCH = "it runs outside torch"
COMPACT = "a compact file holds the weights of a torch model"


@dataclass
class Variant:
    """One variant of a model.

    Args:
        name: as tables print it.
        calls: batch -> a call on that many samples.
        models: batch -> the torch module that runs, if its operators and memory can be traced.
        source: the model whose parameters it has.
        evaluated: the argument of ``evaluate``; None where there is nothing to evaluate.
        files: kind of file -> its bytes.
        remark: what was chosen, removed or exported, as text.
        not_measured: figure -> why it cannot be measured.
    """

    name: str
    calls: dict[int, Callable[[], object]] = field(default_factory=dict)
    models: dict[int, nn.Module] = field(default_factory=dict)
    source: nn.Module | None = None
    evaluated: Callable[..., Any] | None = None
    files: dict[str, int] = field(default_factory=dict)
    remark: str = ""
    not_measured: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VariantSettings:
    """Settings that all variants share.

    Args:
        examples: batch -> inputs of that many samples.
        folder: temporary folder for files whose size is measured.
        exports: folder in which files for other runtimes are kept.
        tolerance: largest difference of an output, relative to the largest output.
        seconds: approximate duration of choosing kernels for one batch size.
    """

    examples: Mapping[int, Example]
    folder: Path
    exports: Path
    tolerance: float
    seconds: float

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes of the calls."""
        return tuple(self.examples)

    @property
    def example(self) -> Any:
        """Inputs of the smallest batch, for functions that need only one example."""
        return self.examples[min(self.examples)].as_input


def torch_variant(name: str, model: nn.Module, settings: VariantSettings) -> Variant:
    """Return an unchanged torch model, with the sizes of its files."""
    calls = {batch: partial(model, *each.args, **each.kwargs) for batch, each in settings.examples.items()}
    path = settings.folder / f"{name}.safetensors"
    files = {"plain": write_dense(model.state_dict(), path)}
    variant = Variant(name, dict(calls), dict.fromkeys(settings.batches, model), model, model, files)
    return _add_compact_files(variant, model, settings)


def recalibrated_variant(model: nn.Module, settings: VariantSettings, batches: Iterable[Any] | None) -> Variant | None:
    """Return a model with its batch norms estimated again; None for a model without batch norms."""
    if not batch_norms(model):
        return None
    variant = Variant("pruned, recalibrated")
    if batches is None:
        return _unavailable(variant, "calibration was not given, so batch norms cannot be estimated")
    model = copy.deepcopy(model)
    count = recalibrate(model, batches)
    variant = torch_variant(variant.name, model, settings)
    variant.remark = f"{count} batch norms estimated again"
    return variant


def slim_variant(model: nn.Module, settings: VariantSettings) -> Variant:
    """Return a model without the channels and heads that do not contribute."""
    model = copy.deepcopy(model)
    report = slim(model, settings.example, tolerance=settings.tolerance)
    if report.parameters[0] == report.parameters[1]:
        return _unavailable(Variant("slim"), "no channel and no head can be removed")
    variant = torch_variant("slim", model, settings)
    save(model, path := settings.folder / "slim.safetensors")
    variant.files["plain"] = path.stat().st_size
    variant.remark = str(report)
    return variant


def accelerated_variant(variant: Variant, settings: VariantSettings) -> Variant:
    """Return a variant with the kernels that are fastest for each batch size."""
    assert variant.source is not None
    found = Variant(f"{variant.name}, accelerated", source=variant.source)
    found.not_measured["files"] = f"its kernels are made from the file of {variant.name!r}"
    if not any(isinstance(module, nn.Linear) for module in variant.source.modules()):
        return _unavailable(found, "kernels replace Linear layers, and the model has none")
    remarks = []
    for batch, example in settings.examples.items():
        chosen = accelerate(variant.source, example.as_input, tolerance=settings.tolerance, seconds=settings.seconds)
        remarks.append(f"batch {batch}:\n{chosen}")
        if chosen.ratio is None:
            found.not_measured |= dict.fromkeys((f"latency {batch}", f"memory {batch}"), "all layers stay dense")
            continue
        found.models[batch] = chosen.model
        found.calls[batch] = partial(chosen.model, *example.args, **example.kwargs)
    found.remark = "\n\n".join(remarks)
    if not found.models:
        return _unavailable(found, "no kernel is faster than dense for any layer, so all stay dense")
    found.evaluated = found.models[max(found.models)]
    return found


def exported_variant(variant: Variant, format: str, settings: VariantSettings) -> tuple[Variant, Exported]:
    """Return a variant as a file in another runtime, and that file."""
    assert variant.source is not None
    tolerance = settings.tolerance * max(1.0, _largest_output(variant.source, settings))
    path = settings.exports / f"{variant.name}{FORMATS[format].suffix}"
    file = export(variant.source, settings.example, format, path, tolerance=tolerance)
    return _runtime_variant(f"{variant.name}, {format}", file, variant.source, settings), file


def onnx_int8_variant(file: Exported, source: nn.Module, settings: VariantSettings) -> Variant:
    """Return an ONNX file with 8-bit weights."""
    return _runtime_variant("dense, onnx int8", quantize(file), source, settings)


def torch_int8_variant(source: nn.Module, settings: VariantSettings) -> Variant:
    """Return a model whose Linear layers have 8-bit weights, through torch's dynamic quantization."""
    variant = Variant("dense, torch int8", source=source)
    if not any(isinstance(module, nn.Linear) for module in source.modules()):
        return _unavailable(variant, "torch quantizes only Linear layers dynamically, and the model has none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao warns at each call that it moves to torchao
        from torch.ao.quantization import quantize_dynamic

        # quantize_dynamic replaces submodules but not the module that it is called with.
        inside = nn.Sequential(copy.deepcopy(source)) if type(source) is nn.Linear else copy.deepcopy(source)
        model = quantize_dynamic(inside, {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    variant.calls = {batch: partial(model, *each.args, **each.kwargs) for batch, each in settings.examples.items()}
    variant.evaluated = model
    variant.not_measured |= {
        "files": "torch writes packed 8-bit weights as a pickle",
        "memory": "packed weights are not tensors, so their bytes cannot be counted",
        "macs": "8-bit operators are not counted",
    }
    return variant


def variant_or_reason(name: str, make: Callable[[], Variant | None]) -> Variant | None:
    """Return the variant that ``make`` makes; if it raises, an unavailable variant with the error as its reason."""
    try:
        return make()
    except Exception as error:
        return _unavailable(Variant(name), f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


def _runtime_variant(name: str, file: Exported, source: nn.Module, settings: VariantSettings) -> Variant:
    variant = Variant(name, source=source, files={"plain": file.bytes}, remark=str(file))
    run = file.runner()

    def evaluated(*inputs: Tensor) -> Any:
        outputs = run(*inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    variant.evaluated = evaluated
    for batch in settings.batches:
        try:
            variant.calls[batch] = file.caller(batch)
        except ValueError as error:
            variant.not_measured[f"latency {batch}"] = str(error)
    variant.not_measured |= {"memory": OUTSIDE_TORCH, "macs": OUTSIDE_TORCH, "compact files": COMPACT}
    return variant


def _add_compact_files(variant: Variant, model: nn.Module, settings: VariantSettings) -> Variant:
    path = settings.folder / f"{variant.name}.compact.safetensors"
    variant.files["compact"] = save_compact(model, path)
    try:
        variant.files["compact zstd"] = save_compact(model, path, zstd=True)
    except ImportError as error:
        variant.not_measured["compact zstd file"] = str(error)
    return variant


def _unavailable(variant: Variant, why: str) -> Variant:
    variant.calls.clear()
    variant.source = variant.evaluated = None
    variant.not_measured = {"everything": why}
    return variant


def _largest_output(model: nn.Module, settings: VariantSettings) -> float:
    with isolated(model), torch.no_grad():
        return max(map(largest_magnitude, nested_tensors(run_example(model, settings.example))), default=1.0)
