"""An ONNX file with its weights as 8-bit integers: the rival that every pruned model has to be shown beside."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_dynprune.atomic import write_atomically
from lightning_dynprune.deploy.export.exported import Exported
from lightning_dynprune.deploy.export.onnx import Onnx
from lightning_dynprune.deploy.export.parity import difference


def quantize(exported: Exported, path: str | Path | None = None) -> Exported:
    """Write an ONNX file again with 8-bit weights, activations quantised call by call (dynamic quantisation).

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
    tools = runtime.load("onnxruntime.quantization")
    with _silent():
        write_atomically(path, lambda scratch: tools.quantize_dynamic(exported.path, scratch))
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
