"""Export to OpenVINO, which runs models on Intel processors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lightning_dynprune.deploy.exporting.base import FORMATS, Format, Runner


@FORMATS.register("openvino")
@dataclass(frozen=True)
class OpenVINO(Format):
    """``.xml`` with the graph and ``.bin`` with the weights beside it, in the precision of the model."""

    name = "openvino"
    suffix = ".xml"
    extra = "openvino"
    packages = ("openvino",)

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Convert a program, keep its fixed sizes, and write it."""
        runtime = self.load("openvino")
        converted = runtime.convert_model(program)
        shapes = {}
        for port, node in zip(converted.inputs, _inputs(program), strict=True):
            sizes = [size if isinstance(size, int) else -1 for size in node.shape]
            shapes[port] = runtime.PartialShape(sizes)
        converted.reshape(shapes)
        runtime.save_model(converted, path, compress_to_fp16=False)

    def runner(self, path: Path) -> Runner:
        """Return a function that runs the compiled model in the model's own precision."""
        runtime = self.load("openvino")
        # Without the hint OpenVINO computes in bfloat16 on processors that support it.
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        compiled = runtime.Core().compile_model(path, "CPU", settings)
        request, positions = compiled.create_infer_request(), range(len(compiled.outputs))

        def run(*inputs: Tensor) -> list[Tensor]:
            found = request.infer([tensor.contiguous().numpy() for tensor in inputs], share_inputs=True)
            return [torch.from_numpy(found[position]) for position in positions]

        return run


def _inputs(program: ExportedProgram) -> list[Tensor]:
    """Return the placeholder tensor of each input of a program."""
    names = set(program.graph_signature.user_inputs)
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
