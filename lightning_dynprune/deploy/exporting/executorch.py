"""ExecuTorch, which runs models on phones and boards; on a CPU by XNNPACK."""

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

# The runtime has one pool of threads for the process. To replace it under a loaded method crashes the process.
_loaded: WeakSet[Any] = WeakSet()


@FORMATS.register("executorch")
@dataclass(frozen=True)
class ExecuTorch(Format):
    """``.pte`` with all that XNNPACK runs handed to it.

    Args:
        max_batch: largest batch of a file that takes any; memory is planned for it.
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
        """Samples that a call may have at most."""
        return self.max_batch

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Lower a program to XNNPACK and write it."""
        partitioner = self.load("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner()
        lowered = self.load("executorch.exir").to_edge_transform_and_lower(program, partitioner=[partitioner])
        with path.open("wb") as file:
            lowered.to_executorch().write_to_file(file)

    def runner(self, path: Path) -> Runner:
        """Return the file's method as a function.

        Raises:
            RuntimeError: a runner that lives has another number of threads.
        """
        _set_threads(self.load("executorch.extension.pybindings.portable_lib"), torch.get_num_threads())
        loaded = self.load("executorch.runtime").Runtime.get().load_program(path)
        method = loaded.load_method("forward")
        _loaded.add(method)

        def run(*inputs: Tensor) -> list[Tensor]:
            return list(method.execute([tensor.contiguous() for tensor in inputs]))

        return run


def _set_threads(library: Any, threads: int) -> None:
    if library._threadpool_get_thread_count() == threads:
        return
    if _loaded:
        raise RuntimeError(
            f"ExecuTorch's one pool has {library._threadpool_get_thread_count()} threads and {len(_loaded)} runners "
            f"that use it; drop them before one with {threads} threads is made"
        )
    library._unsafe_reset_threadpool(threads)
