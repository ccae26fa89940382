"""Hold the measurements of a model's variants, with the reason for each figure that is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_dynprune.deploy.timing import Clock, Latency, Ratio

NOT_MEASURED = "not measured"
_FORMAT, _VERSION = "lightning-dynprune deploy report", 1


@dataclass
class Row:
    """Measurements of one variant of a model. A figure that is None, or a batch that is absent, was not measured.

    Args:
        name: name of the variant.
        latency: batch -> seconds a call, by the report's clock.
        ratio: batch -> how many times as fast as dense, round by round.
        memory: batch -> bytes of the model plus the peak of what a forward pass allocates.
        files: kind of file (plain, compact, compact zstd) -> its bytes.
        macs: multiply-adds of a forward pass of one sample.
        parameters: number of parameter entries.
        nonzero: number of those that are not zero.
        accuracy: as returned by ``evaluate``.
        not_measured: figure (``latency 32`` for one batch) -> why it was not measured.
    """

    name: str
    latency: dict[int, Latency] = field(default_factory=dict)
    ratio: dict[int, Ratio] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    macs: int | None = None
    parameters: int | None = None
    nonzero: int | None = None
    accuracy: float | None = None
    not_measured: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DeployReport:
    """Measurements of a model's variants, taken in the same rounds on one machine.

    Args:
        rows: the variants; dense comes first.
        batches: batch sizes of the timed calls.
        device: device on which torch computed.
        threads: number of threads of torch and of the runtimes.
        clock: clock of latencies and ratios (see :class:`~lightning_dynprune.deploy.timing.Rounds`).
        remarks: variant -> what was chosen, removed or exported, as text.
    """

    rows: list[Row]
    batches: tuple[int, ...]
    device: str
    threads: int
    clock: Clock
    remarks: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Row:
        """Return the row of a variant.

        Raises:
            KeyError: there is none; the message lists the existing rows.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is not a row; rows: {', '.join(row.name for row in self.rows)}")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can represent."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "batches": list(self.batches),
            "device": self.device,
            "threads": self.threads,
            "clock": self.clock,
            "rows": [_plain_row(row) for row in self.rows],
            "remarks": dict(self.remarks),
        }

    def __str__(self) -> str:
        """Return latencies and ratios as a text table, followed by the figures that were not measured."""
        head = ["", *(f"batch {batch}: {what}" for batch in self.batches for what in ("ms", "x dense"))]
        cells = [head]
        for row in self.rows:
            cells.append([row.name])
            for batch in self.batches:
                took, ratio = row.latency.get(batch), row.ratio.get(batch)
                cells[-1].append(NOT_MEASURED if took is None else f"{took.median * 1e3:.3f}")
                cells[-1].append(NOT_MEASURED if ratio is None else f"{ratio.median:.2f}")
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        return "\n".join([*lines, *reason_lines({row.name: row.not_measured for row in self.rows})])


def reason_lines(not_measured: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a line for each reason, with the figures that are missing for it and the variants that lack them.

    Args:
        not_measured: variant -> figure -> why it was not measured.

    Example:
        >>> missing = {"macs": "it runs outside torch", "memory": "it runs outside torch"}
        >>> reason_lines({"slim, onnx": missing, "dense, onnx": missing})
        ['macs, memory not measured: it runs outside torch (slim, onnx; dense, onnx)']
    """
    variants: dict[tuple[str, str], list[str]] = {}
    for name, held in not_measured.items():
        figures: dict[str, list[str]] = {}
        for figure, why in held.items():
            figures.setdefault(why, []).append(figure)
        for why, missing in figures.items():
            variants.setdefault((", ".join(missing), why), []).append(name)
    return [f"{missing} {NOT_MEASURED}: {why} ({'; '.join(names)})" for (missing, why), names in variants.items()]


def _plain_row(row: Row) -> dict[str, Any]:
    return {
        **{
            name: value
            for name, value in asdict(row).items()
            if name not in ("latency", "ratio", "memory", "not_measured")
        },
        "latency": {str(batch): asdict(took) for batch, took in row.latency.items()},
        "ratio": {str(batch): asdict(ratio) for batch, ratio in row.ratio.items()},
        "memory": {str(batch): size for batch, size in row.memory.items()},
        "not_measured": dict(row.not_measured),
    }
