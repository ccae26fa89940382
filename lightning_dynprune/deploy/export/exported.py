"""A written file and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lightning_dynprune.deploy.export.base import Format, Runner
from lightning_dynprune.deploy.export.example import Example
from lightning_dynprune.deploy.latency import Latency, latencies


@dataclass(frozen=True)
class Exported:
    """A file that computes what a model does.

    Args:
        format: as it was asked for.
        path: the file.
        bytes: of all files that belong to it.
        batch: the one batch size it takes; None where it takes any.
        batches: sizes it was compared with the model at.
        max_difference: the largest absolute difference of an output from the model's.
        runtime: runs the file.
        example: the inputs that the model was traced with.
    """

    format: str
    path: Path
    bytes: int
    batch: int | None
    batches: tuple[int, ...]
    max_difference: float
    runtime: Format = field(repr=False, compare=False)
    example: Example = field(repr=False, compare=False)

    def __str__(self) -> str:
        largest = self.runtime.largest_batch
        takes = "any batch" if self.batch is None else f"batch fixed at {self.batch}"
        takes += f" up to {largest}" if self.batch is None and largest is not None else ""
        sizes = ", ".join(map(str, self.batches))
        return (
            f"{self.format}: {self.path.name}, {self.bytes:,} bytes, {takes}; "
            f"differs by {self.max_difference:.2g} at most (batches {sizes})"
        )

    def runner(self) -> Runner:
        """Return a function of the file, in its runtime, with as many threads as torch has now."""
        return self.runtime.runner(self.path)

    def caller(self, batch: int = 1) -> Callable[[], object]:
        """Return a call of the file on one batch, to be measured beside others.

        Args:
            batch: samples of a call.

        Raises:
            ValueError: the file does not take such a batch.
        """
        fits = self.batch in (None, batch) and batch <= (self.runtime.largest_batch or batch)
        if not fits or batch < 1:
            raise ValueError(f"batch={batch} is not accepted; {self}")
        run = self.runner()
        tensors = self.example.drawn(batch if self.batch is None else None, seed=0).tensors
        return lambda: run(*tensors)

    def latency(self, batch: int = 1, *, seconds: float = 1.0) -> Latency:
        """Return how long a call takes, in its own runtime, with as many threads as torch has now.

        To compare with others, measure all :meth:`caller` results in one call of
        :func:`lightning_dynprune.deploy.latency.latencies`.

        Args:
            batch: samples of a call.
            seconds: about how long to measure.

        Raises:
            ValueError: the file does not take such a batch.
        """
        return latencies({self.format: self.caller(batch)}, seconds=seconds)[self.format]
