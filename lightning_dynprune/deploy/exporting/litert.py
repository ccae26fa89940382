"""LiteRT, formerly TensorFlow Lite."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree

from lightning_dynprune.base import nested_tensors
from lightning_dynprune.deploy.exporting.base import FORMATS, Format, Runner


@FORMATS.register("litert")
@dataclass(frozen=True)
class LiteRT(Format):
    """``.tflite``, of one batch size: litert-torch converts no program whose shapes are open.

    64-bit integers become 32-bit ones, as the format's kernels have them.
    """

    name = "litert"
    suffix = ".tflite"
    extra = "litert"
    packages = ("litert_torch", "ai_edge_litert.interpreter")
    supports_dynamic_batch = False

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Convert a program and write it."""
        args, kwargs = program.example_inputs
        inputs = tuple(_pytree.tree_leaves((args, kwargs)))
        # The converter reports each of its steps.
        with redirect_stdout(StringIO()):
            self.load("litert_torch").convert(_Flat(program), inputs).export(str(path))

    def runner(self, path: Path) -> Runner:
        """Return the file's one signature as a function."""
        library = self.load("ai_edge_litert.interpreter")
        interpreter = library.Interpreter(model_path=str(path), num_threads=torch.get_num_threads())
        interpreter.allocate_tensors()
        ((_, signature),) = interpreter.get_signature_list().items()
        runner = interpreter.get_signature_runner()
        given = _in_order(signature["inputs"], runner.get_input_details())
        found = _in_order(signature["outputs"], runner.get_output_details())

        def run(*inputs: Tensor) -> list[Tensor]:
            for detail, tensor in zip(given, inputs, strict=True):
                interpreter.set_tensor(detail["index"], tensor.numpy().astype(detail["dtype"], copy=False))
            interpreter.invoke()
            return [torch.from_numpy(np.asarray(interpreter.get_tensor(detail["index"]))) for detail in found]

        return run


class _Flat(nn.Module):
    """A program as a module of positional inputs that returns its output tensors."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.module = program.module()
        self.spec = program.call_spec.in_spec

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = _pytree.tree_unflatten(list(inputs), self.spec)
        return tuple(nested_tensors(self.module(*args, **kwargs)))


def _in_order(names: Sequence[str], details: dict[str, Any]) -> list[Any]:
    """Return the details of args_0, args_1, ... in the order of their numbers."""
    return [details[name] for name in sorted(names, key=lambda name: int(name.rpartition("_")[2]))]
