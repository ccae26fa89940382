"""Export a model to a file, and keep the file only if its outputs match the model's."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_dynprune.base import check_flag, check_real, nested_tensors
from lightning_dynprune.deploy.exporting.base import FORMATS, ExportError, Format, error_summary
from lightning_dynprune.deploy.exporting.example import Example
from lightning_dynprune.deploy.exporting.exported import Exported
from lightning_dynprune.deploy.exporting.output_check import max_output_difference
from lightning_dynprune.deploy.exporting.program import prepared_for_export, trace

_NUM_FIXED_CASES = 3  # random inputs to compare at, if the batch size is fixed


def export(
    model: nn.Module,
    example_input: Any,
    format: str | Mapping[str, Any] | Format,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    tolerance: float = 1e-4,
    inputs: Sequence[Any] = (),
) -> Exported:
    """Export a model to another runtime, run the file there, and compare its outputs with the model's.

    The comparison uses random inputs: floats with the mean and deviation of ``example_input``, integers within its
    range, at several batch sizes where the file accepts them. The model is traced in eval mode and is unchanged
    afterwards.

    Args:
        model: the network, on the CPU.
        example_input: a tensor, a tuple of tensors, or a mapping from names to tensors.
        format: name of the format, a mapping with its settings, or an instance.
        path: the file, with the format's suffix. An existing file is replaced only if the new one passes the
            comparison.
        dynamic_batch: treat the first dimension of every input as the batch and accept any batch size. If the runtime
            supports only fixed batches, the example's batch size is used and the result says so.
        tolerance: largest accepted absolute difference of an output.
        inputs: further inputs to compare at, each of the form of ``example_input``.

    Returns:
        The file's size, its largest difference from the model, and its runtime.

    Raises:
        ExportError: the model cannot be traced or written, or the file does not run or differs by more than
            ``tolerance``; no file is left then.
        ValueError: a setting is invalid.
        ImportError: a package is not installed.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> import torch
        >>> model = nn.Linear(4, 3)
        >>> exported = export(model, torch.zeros(2, 4), "pt2", folder / "model.pt2")
        >>> exported.batches, exported.max_difference
        ((1, 3, 2), 0.0)
        >>> exported.runner()(torch.ones(7, 4))[0].shape
        torch.Size([7, 3])
    """
    runtime, path, example = FORMATS.build(format), Path(path), Example.of(example_input)
    tolerance = check_real("tolerance", tolerance, low=0)
    if path.suffix != runtime.suffix:
        raise ValueError(f"path={str(path)!r} is not accepted for format={runtime.name!r}; end it in {runtime.suffix}")
    if not path.parent.is_dir():
        raise ValueError(f"path={str(path)!r}: there is no folder {path.parent}")
    dynamic_batch = check_flag("dynamic_batch", dynamic_batch)
    if dynamic_batch and not example.batch:
        raise ValueError(
            "dynamic_batch=True needs inputs whose first axes are one batch of at least 1; the shapes of example_input "
            f"are {[tuple(t.shape) for t in example.tensors]}; give dynamic_batch=False"
        )
    dynamic, largest = dynamic_batch and runtime.supports_dynamic_batch, runtime.largest_batch
    if dynamic and (example.batch or 1) > (largest or math.inf):
        raise ValueError(
            f"example_input is a batch of {example.batch}, and format={runtime.name!r} takes up to {largest}; "
            f"give format={runtime!r} with a larger one, or dynamic_batch=False"
        )
    runtime.require()
    sizes: list[int | None] = [None] * _NUM_FIXED_CASES
    if dynamic:
        sizes = [size for size in dict.fromkeys((1, 3, example.batch or 1, 2)) if size <= (largest or size)]
    cases = [example.drawn(size, seed) for seed, size in enumerate(sizes)]
    cases += [Example.of(further) for further in inputs]
    with prepared_for_export(model), _scratch(path) as scratch:
        program = trace(model, example, dynamic_batch=dynamic, largest_batch=largest)
        largest_difference = _write_and_compare(runtime, program, scratch, model, cases)
        if largest_difference > tolerance:
            raise ExportError(
                f"format={runtime.name!r}: its outputs differ from the model's by {largest_difference:.3g}, more than "
                f"tolerance={tolerance:g}; no file was written"
            )
        files = sorted(scratch.parent.iterdir())
        size = sum(file.stat().st_size for file in files)
        for file in files:
            file.replace(path.parent / file.name)
    return Exported(
        format=runtime.name,
        path=path,
        bytes=size,
        dynamic_batch=dynamic,
        batches=tuple(dict.fromkeys(case.batch for case in cases if case.batch)),
        max_difference=largest_difference,
        runtime=runtime,
        example=example,
    )


def _write_and_compare(runtime: Format, program: Any, path: Path, model: nn.Module, cases: Sequence[Example]) -> float:
    """Write a program, run the file and return the largest difference of its outputs from the model's."""
    expected: list[list[Tensor]] = [nested_tensors(model(*case.args, **case.kwargs)) for case in cases]
    step = "writing"
    try:
        runtime.write(program, path)
        step = "running"
        run = runtime.runner(path)
        return max(
            max_output_difference(run(*case.tensors), outputs) for case, outputs in zip(cases, expected, strict=True)
        )
    except ExportError as error:
        raise ExportError(f"format={runtime.name!r}: {error}") from error
    except Exception as error:
        raise ExportError(f"format={runtime.name!r}: {step} {path.name} failed: {error_summary(error)}") from error


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside ``path``."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        yield Path(folder) / path.name
