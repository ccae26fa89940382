"""Export to LiteRT, formerly TensorFlow Lite."""

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

from lightning_dynprune.base import nested_tensors
from lightning_dynprune.deploy.exporting.base import FORMATS, Format, Runner


@FORMATS.register("litert")
@dataclass(frozen=True)
class LiteRT(Format):
    """``.tflite`` files of one fixed batch size, because litert-torch converts no program with dynamic shapes.

    64-bit integers become 32-bit ones, which the format's kernels require.
    """

    name = "litert"
    suffix = ".tflite"
    extra = "litert"
    packages = ("litert_torch", "ai_edge_litert.interpreter")
    supports_dynamic_batch = False

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Convert a program and write it."""
        inputs = tuple(nested_tensors(program.example_inputs))
        # The converter prints each of its steps.
        with redirect_stdout(StringIO()):
            self.load("litert_torch").convert(_Flat(program), inputs).export(str(path))

    def runner(self, path: Path) -> Runner:
        """Return a function that runs the file's only signature."""
        library = self.load("ai_edge_litert.interpreter")
        interpreter = library.Interpreter(model_path=str(path), num_threads=torch.get_num_threads())
        interpreter.allocate_tensors()
        ((_, signature),) = interpreter.get_signature_list().items()
        runner = interpreter.get_signature_runner()
        input_details = _in_order(signature["inputs"], runner.get_input_details())
        output_details = _in_order(signature["outputs"], runner.get_output_details())

        def run(*inputs: Tensor) -> list[Tensor]:
            for detail, tensor in zip(input_details, inputs, strict=True):
                interpreter.set_tensor(detail["index"], tensor.numpy().astype(detail["dtype"], copy=False))
            interpreter.invoke()
            return [torch.from_numpy(np.asarray(interpreter.get_tensor(detail["index"]))) for detail in output_details]

        return run


class _Flat(nn.Module):
    """A program as a module with positional inputs that returns a flat tuple of output tensors."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.module = program.module()
        self.spec = program.call_spec.in_spec

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = self.spec.unflatten(list(inputs))
        return tuple(nested_tensors(self.module(*args, **kwargs)))


def _in_order(names: Sequence[str], details: dict[str, Any]) -> list[Any]:
    """Return the details of args_0, args_1, ... sorted by number."""
    return [details[name] for name in sorted(names, key=lambda name: int(name.rpartition("_")[2]))]
