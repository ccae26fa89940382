"""An ONNX file with its weights as 8-bit integers: the rival that every pruned model has to be shown beside."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_dynprune.base import write_atomically
from lightning_dynprune.deploy.exporting.exported import Exported
from lightning_dynprune.deploy.exporting.onnx import Onnx
from lightning_dynprune.deploy.exporting.output_check import difference


def quantize(exported: Exported, path: str | Path | None = None) -> Exported:
    """Write an ONNX file again with 8-bit weights, activations quantised call by call (dynamic quantisation).

    Each operator gets the integers that ONNX Runtime is fastest with, for a rival is to be shown at its best: unsigned
    ones for convolutions, which ran three times faster so, signed ones elsewhere, up to twice as fast.

    Args:
        exported: an ONNX file.
        path: the new file; None puts it beside the old one as ``NAME.int8.onnx``.

    Returns:
        The new file; ``max_difference`` is from the outputs of the old one, and nothing is refused for it.

    Raises:
        ValueError: ``exported`` is no ONNX file.
        ImportError: a package is missing.
    """
    runtime = exported.runtime
    if not isinstance(runtime, Onnx):
        raise ValueError(f"format={exported.format!r} is not accepted; export to format='onnx' and quantise that")
    path = exported.path.with_suffix(".int8.onnx") if path is None else Path(path)
    write_atomically(path, lambda scratch: _quantize(runtime, exported.path, scratch))
    old, new = exported.runner(), runtime.runner(path)
    sizes = exported.batches if exported.dynamic_batch else (None,)
    cases = [exported.example.drawn(size, seed).tensors for seed, size in enumerate(sizes)]
    return dataclasses.replace(
        exported,
        format="onnx int8",
        path=path,
        bytes=path.stat().st_size,
        max_difference=max(difference(new(*case), old(*case)) for case in cases),
    )


def _quantize(runtime: Onnx, source: Path, target: Path) -> None:
    tools = runtime.load("onnxruntime.quantization")
    between = target.with_name(f"{target.stem}.between.onnx")
    unsigned, signed = tools.QuantType.QUInt8, tools.QuantType.QInt8
    try:
        with _silent():
            tools.quantize_dynamic(source, between, op_types_to_quantize=["Conv"], weight_type=unsigned)
            tools.quantize_dynamic(between, target, weight_type=signed)
    finally:
        between.unlink(missing_ok=True)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep off the screen a hint, at each call, that shapes should be inferred first: the exporter has done that."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
