"""Export to ExecuTorch, which runs models on phones and embedded boards, and on CPUs through XNNPACK."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lightning_dynprune.base import check_count, convert_settings
from lightning_dynprune.deploy.exporting.base import FORMATS, Format, Runner
from lightning_dynprune.deploy.exporting.compat import set_thread_count, thread_count

# The runtime has one pool of threads; replacing it while a method is loaded crashes the process.
_loaded_methods: WeakSet[Any] = WeakSet()


@FORMATS.register("executorch")
@dataclass(frozen=True)
class ExecuTorch(Format):
    """``.pte`` files with every supported operator delegated to XNNPACK.

    Args:
        max_batch: maximum batch size of a file with a dynamic batch; memory is planned for it.
    """

    max_batch: int = 32

    name = "executorch"
    suffix = ".pte"
    extra = "export"
    packages = ("executorch.exir", "executorch.runtime")

    def __post_init__(self) -> None:
        convert_settings(self)
        check_count("max_batch", self.max_batch)

    @property
    def largest_batch(self) -> int:
        """Maximum batch size of a file."""
        return self.max_batch

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Lower a program to XNNPACK and write it."""
        partitioner = self.load("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner()
        lowered = self.load("executorch.exir").to_edge_transform_and_lower(program, partitioner=[partitioner])
        with path.open("wb") as file:
            lowered.to_executorch().write_to_file(file)

    def runner(self, path: Path) -> Runner:
        """Return a function that runs the file's ``forward`` method.

        Raises:
            RuntimeError: another runner is in use with a different number of threads.
        """
        _set_threads(self.load("executorch.extension.pybindings.portable_lib"), torch.get_num_threads())
        loaded = self.load("executorch.runtime").Runtime.get().load_program(path)
        method = loaded.load_method("forward")
        _loaded_methods.add(method)

        def run(*inputs: Tensor) -> list[Tensor]:
            return list(method.execute([tensor.contiguous() for tensor in inputs]))

        return run


def _set_threads(library: Any, threads: int) -> None:
    if thread_count(library) == threads:
        return
    if _loaded_methods:
        raise RuntimeError(
            f"ExecuTorch's one pool has {thread_count(library)} threads and {len(_loaded_methods)} runners "
            f"that use it; delete them before you make one with {threads} threads"
        )
    set_thread_count(library, threads)
