"""Describe an exported file, run it and time it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lightning_dynprune.base import check_count
from lightning_dynprune.deploy.exporting.base import Format, Runner
from lightning_dynprune.deploy.exporting.example import Example
from lightning_dynprune.deploy.timing import Latency, latencies


@dataclass(frozen=True)
class Exported:
    """An exported file whose outputs were compared with the model's.

    Args:
        format: name of the format.
        path: the file.
        bytes: size of all files that belong to the export.
        dynamic_batch: whether the file accepts any batch size, up to the runtime's maximum; otherwise only the
            example's.
        batches: batch sizes at which the outputs were compared.
        max_difference: largest absolute difference between an output and the model's.
        runtime: runs the file.
        example: inputs that the model was traced with.
    """

    format: str
    path: Path
    bytes: int
    dynamic_batch: bool
    batches: tuple[int, ...]
    max_difference: float
    runtime: Format = field(repr=False, compare=False)
    example: Example = field(repr=False, compare=False)

    def __str__(self) -> str:
        return (
            f"{self.format}: {self.path.name}, {self.bytes:,} bytes, takes {self._takes}; differs from the model by "
            f"{self.max_difference:.2g} at most, compared at batch {', '.join(map(str, self.batches)) or 'sizes given'}"
        )

    @property
    def _takes(self) -> str:
        if not self.dynamic_batch:
            return "one set of sizes" if self.example.batch is None else f"a batch of {self.example.batch} alone"
        largest = self.runtime.largest_batch
        return "any batch" if largest is None else f"any batch up to {largest}"

    def runner(self) -> Runner:
        """Return a function that runs the file, with as many threads as torch has now."""
        return self.runtime.runner(self.path)

    def caller(self, batch: int = 1) -> Callable[[], object]:
        """Return a call without arguments that runs the file on one batch, for timing.

        Args:
            batch: batch size.

        Raises:
            ValueError: the file does not accept this batch size.
        """
        batch = check_count("batch", batch)
        fits = batch <= (self.runtime.largest_batch or batch) if self.dynamic_batch else batch == self.example.batch
        if not fits:
            raise ValueError(f"batch={batch} is not accepted by {self.path.name}; it takes {self._takes}")
        run = self.runner()
        tensors = self.example.drawn(batch if self.dynamic_batch else None, seed=0).tensors
        return lambda: run(*tensors)

    def latency(self, batch: int = 1, *, seconds: float = 1.0) -> Latency:
        """Return how long a call takes in the file's runtime, with as many threads as torch has now.

        To compare several files, time all their :meth:`caller` results in one call of
        :func:`lightning_dynprune.deploy.timing.latencies`.

        Args:
            batch: batch size.
            seconds: approximate duration of the measurement.

        Raises:
            ValueError: the file does not accept this batch size.
        """
        return latencies({self.format: self.caller(batch)}, seconds=seconds)[self.format]
