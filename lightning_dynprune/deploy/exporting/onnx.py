"""Export to ONNX, and run the file with ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lightning_dynprune.deploy.exporting.base import FORMATS, Format, Runner


@FORMATS.register("onnx")
@dataclass(frozen=True)
class Onnx(Format):
    """A single ``.onnx`` file, so of at most 2 GiB."""

    name = "onnx"
    suffix = ".onnx"
    extra = "export"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Write a program without the metadata that records where each node comes from."""
        written = torch.onnx.export(program, dynamo=True, verbose=False)
        if written is None:
            raise TypeError("torch.onnx.export returned no program")
        for node in written.model.graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
        written.save(path, external_data=False)

    def runner(self, path: Path) -> Runner:
        """Return a function that runs the file in an ONNX Runtime session."""
        runtime = self.load("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]

        def run(*inputs: Tensor) -> list[Tensor]:
            feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
            return [torch.from_numpy(output) for output in session.run(None, feed)]

        return run
