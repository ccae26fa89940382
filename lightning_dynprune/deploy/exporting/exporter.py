"""Write a model into a file of a format, and keep the file only if it computes what the model does."""

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
from lightning_dynprune.deploy.exporting.output_check import difference
from lightning_dynprune.deploy.exporting.program import ready, trace

_FIXED_CASES = 3  # random inputs to compare at, where the batch is fixed


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
    """Write a model for another runtime, run the file there, and compare it with the model.

    Compared are the outputs for inputs drawn at random: floats with the mean and deviation of ``example_input``,
    integers within the range that it spans, at several batch sizes where the file takes them. The model is traced in
    eval mode and comes back unchanged.

    Args:
        model: the network, on the CPU.
        example_input: a tensor, a tuple of tensors, or a mapping from names to tensors.
        format: name of the format, a mapping with its settings, or an instance.
        path: the file; its suffix is the format's. An old one is replaced, unless the new one is refused.
        dynamic_batch: the first axis of every input is the batch, and the file takes any. Where the runtime cannot, the
            batch is fixed at the example's, and the result says so.
        tolerance: largest absolute difference of an output that is accepted.
        inputs: further inputs to compare at, each like ``example_input``.

    Returns:
        The file's size, its difference from the model, and its runtime.

    Raises:
        ExportError: the model cannot be traced or written, the file does not run or differs by more than ``tolerance``;
            no file is left then.
        ValueError: a setting is not accepted.
        ImportError: a package is missing.

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
    sizes: list[int | None] = [None] * _FIXED_CASES
    if dynamic:
        sizes = [size for size in dict.fromkeys((1, 3, example.batch or 1, 2)) if size <= (largest or size)]
    cases = [example.drawn(size, seed) for seed, size in enumerate(sizes)]
    cases += [Example.of(given) for given in inputs]
    with ready(model), _scratch(path) as scratch:
        program = trace(model, example, dynamic_batch=dynamic, largest_batch=largest)
        worst = _written(runtime, program, scratch, model, cases)
        if worst > tolerance:
            raise ExportError(
                f"format={runtime.name!r}: its outputs differ from the model's by {worst:.3g}, more than "
                f"tolerance={tolerance:g}; no file was written"
            )
        files = sorted(scratch.parent.iterdir())
        taken = sum(file.stat().st_size for file in files)
        for file in files:
            file.replace(path.parent / file.name)
    return Exported(
        format=runtime.name,
        path=path,
        bytes=taken,
        dynamic_batch=dynamic,
        batches=tuple(dict.fromkeys(case.batch for case in cases if case.batch)),
        max_difference=worst,
        runtime=runtime,
        example=example,
    )


def _written(runtime: Format, program: Any, path: Path, model: nn.Module, cases: Sequence[Example]) -> float:
    """Write a program and return by how much its outputs differ from the model's."""
    expected: list[list[Tensor]] = [nested_tensors(model(*case.args, **case.kwargs)) for case in cases]
    doing = "writing"
    try:
        runtime.write(program, path)
        doing = "running"
        run = runtime.runner(path)
        return max(difference(run(*case.tensors), outputs) for case, outputs in zip(cases, expected, strict=True))
    except ExportError as error:
        raise ExportError(f"format={runtime.name!r}: {error}") from error
    except Exception as error:
        raise ExportError(f"format={runtime.name!r}: {doing} {path.name} failed: {error_summary(error)}") from error


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a folder of its own beside ``path``, gone afterwards."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        yield Path(folder) / path.name
