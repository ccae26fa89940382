"""Hold the result of a forecast, and summarize it in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning_dynprune.deploy.measurement import NOT_MEASURED
from lightning_dynprune.deploy.timing import Clock, Latency, Ratio

PAYS = 1.05  # times as fast as dense; less is not worth pruning
_FORMAT, _VERSION = "lightning-dynprune preflight", 1


@dataclass(frozen=True)
class Cell:
    """The result for one pattern at one sparsity and batch size.

    Args:
        pattern: its label.
        sparsity: share of the connections, zero at random.
        batch: batch size.
        ratio: how many times as fast as dense; None where it was not measured, or nothing is faster than dense.
        stays_dense: whether measurements showed that nothing is faster than dense.
        note: what was chosen, or why it was not measured.
    """

    pattern: str
    sparsity: float
    batch: int
    ratio: Ratio | None = None
    stays_dense: bool = False
    note: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether the cell has a result."""
        return self.stays_dense or self.ratio is not None

    @property
    def pays(self) -> bool:
        """Whether the pattern is faster than dense by more than noise."""
        return self.ratio is not None and self.ratio.median >= PAYS and self.ratio.low > 1

    def __str__(self) -> str:
        if self.ratio is not None:
            return f"{self.ratio.median:.2f}x"
        return "stays dense" if self.stays_dense else NOT_MEASURED


@dataclass(frozen=True)
class Forecast:
    """The speed-up that each pattern would give.

    Args:
        cells: results, pattern by pattern.
        dense: batch -> latency of the dense model; a batch is absent where measuring it would take too long.
        device: device of the measurements.
        threads: number of torch's threads.
        clock: clock of the ratios.
        seconds: duration of all measurements.
    """

    cells: Sequence[Cell]
    dense: dict[int, Latency]
    device: str
    threads: int
    clock: Clock
    seconds: float

    def of(self, pattern: str) -> list[Cell]:
        """Return the cells of a pattern, by its label."""
        return [cell for cell in self.cells if cell.pattern == pattern]

    @property
    def patterns(self) -> list[str]:
        """Labels of the patterns."""
        return list(dict.fromkeys(cell.pattern for cell in self.cells))

    @property
    def verdicts(self) -> dict[str, str]:
        """Pattern -> a sentence that says whether it is faster here, and from which sparsity on."""
        return {pattern: verdict(self.of(pattern)) for pattern in self.patterns}

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as values that JSON can represent."""
        cells = [asdict(cell) | {"measured": cell.is_measured} for cell in self.cells]
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "device": self.device,
            "threads": self.threads,
            "clock": self.clock,
            "seconds": self.seconds,
            "dense": {str(batch): asdict(took) for batch, took in self.dense.items()},
            "cells": cells,
            "verdicts": self.verdicts,
        }

    def __str__(self) -> str:
        width = max(map(len, self.patterns))
        lines = []
        for pattern in self.patterns:
            for cell in self.of(pattern):
                place = f"{pattern:<{width}}  {cell.sparsity:.0%}  batch {cell.batch}: "
                lines.append(place + str(cell) + (f" ({cell.note})" if cell.note else ""))
        return "\n".join([*lines, "", *(f"{pattern}: {words}" for pattern, words in self.verdicts.items())])


def verdict(cells: Sequence[Cell]) -> str:
    """Return in words whether a pattern is faster, and from which sparsity on, for each batch size.

    Example:
        >>> fast = Ratio(2.0, 1.9, 2.1, 9)
        >>> verdict([Cell("block", 0.5, 1, stays_dense=True), Cell("block", 0.9, 1, fast)])
        'batch 1: pays from 90 % on (2.00x)'
        >>> verdict([Cell("element", 0.9, 1, Ratio(0.8, 0.7, 0.9, 9))])
        'batch 1: cannot pay here: 0.80x at 90 %'
    """
    if not any(cell.is_measured for cell in cells):
        reasons = "; ".join(dict.fromkeys(cell.note for cell in cells if cell.note))
        return f"{NOT_MEASURED}: {reasons}"
    sentences = []
    for batch in dict.fromkeys(cell.batch for cell in cells):
        here = sorted((cell for cell in cells if cell.batch == batch and cell.is_measured), key=lambda c: c.sparsity)
        sentences.append(f"batch {batch}: {_at_one_batch(here)}")
    return "; ".join(sentences)


def _at_one_batch(measured: Sequence[Cell]) -> str:
    if not measured:
        return NOT_MEASURED
    paying = [cell for cell in measured if cell.pays]
    if not paying:
        highest = measured[-1]
        outcome = "nothing is faster than dense" if highest.stays_dense else str(highest)
        noise = ", which is within noise" if highest.ratio is not None and highest.ratio.median >= PAYS else ""
        return f"cannot pay here: {outcome} at {100 * highest.sparsity:.0f} %{noise}"
    first, last = paying[0], paying[-1]
    from_there = f"pays from {100 * first.sparsity:.0f} % on ({first})"
    return from_there if first is last else f"{from_there}, {last} at {100 * last.sparsity:.0f} %"
