"""The tables of ``task=deploy`` (time, memory and size of a model) and of ``task=preflight`` (expected speed-ups)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from lightning_dynprune.deploy.measurement import NOT_MEASURED, reason_lines
from lightning_dynprune.report.text import file_size, percent, plain_text, titled_table

_CLOCKS = {"cpu": "CPU time", "wall": "wall time"}


def deploy_table(report: Mapping[str, Any], path: Path | None = None) -> RenderableType:
    """Return the tables of a measured model: time, time per input, file sizes, MACs and accuracy.

    Args:
        report: the content of ``deploy.json``.
        path: that file, printed under the tables.
    """
    notes = [plain_text(f"  {line}", style="dim") for line in reason_lines(_not_measured(report))]
    where = [] if path is None else [plain_text(f"  all figures, and each layer: {path}", style="dim")]
    speeds = [_speed(report, str(batch)) for batch in report["batches"]]
    adaptive = report.get("adaptive")
    per_input = [] if adaptive is None else [_per_input(report, adaptive, "the fastest dense form")]
    if adaptive is not None and "onnx" in adaptive:
        per_input.append(_per_input(report, adaptive["onnx"], "the whole network, both in ONNX Runtime"))
    return Group(*speeds, *per_input, _files(report), _work(report), *notes, *where)


def preflight_table(outlook: Mapping[str, Any], path: Path | None = None) -> RenderableType:
    """Return the table of expected speed-ups over dense by pattern, and a verdict for each pattern.

    Args:
        outlook: the content of ``preflight.json``.
        path: that file, printed under the table.
    """
    cells = {(c["pattern"], c["batch"], c["sparsity"]): c for c in outlook["cells"]}
    columns = list(dict.fromkeys((batch, sparsity) for _, batch, sparsity in sorted(cells, key=lambda k: k[1:])))
    table = _table(f"Speed-up over dense at random masks, {_machine(outlook)}")
    for batch, sparsity in columns:
        table.add_column(f"batch {batch}\n{100 * sparsity:.0f} %", justify="right")
    for pattern in outlook["verdicts"]:
        table.add_row(plain_text(pattern), *(_outcome(cells[pattern, batch, sparsity]) for batch, sparsity in columns))
    verdicts = [plain_text(f"  {pattern}: {words}") for pattern, words in outlook["verdicts"].items()]
    where = [] if path is None else [plain_text(f"  all figures: {path}", style="dim")]
    return Group(table, *verdicts, plain_text(f"  measured in {outlook['seconds']:.0f} s", style="dim"), *where)


def _speed(report: Mapping[str, Any], batch: str) -> Table:
    table = _table(f"Batch {batch}, {_machine(report)}")
    for heading in ("ms (quartiles)", "speed-up (quartiles)", "peak memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report["rows"]:
        took, ratio = row["latency"].get(batch), row["ratio"].get(batch)
        table.add_row(
            plain_text(row["name"]),
            NOT_MEASURED if took is None else _spread(took, 1e3, 3),
            NOT_MEASURED if ratio is None else _spread(ratio, 1, 2),
            _bytes(row["memory"].get(batch)),
        )
    return table


def _per_input(report: Mapping[str, Any], adaptive: Mapping[str, Any], rival: str) -> Table:
    table = _table(f"Per input over {rival}, accuracy {percent(adaptive['accuracy'])}, {_machine(report)}")
    for heading in ("speed-up", "p50, ms", "p95, ms", "runs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for batch, found in adaptive["speeds"].items():
        took = [f"{found['dense'][q] * 1e3:.3f} -> {found['adaptive'][q] * 1e3:.3f}" for q in ("p50", "p95")]
        runs = "per input" if found["is_adaptive"] else "dense"
        table.add_row(f"batch {batch}", _spread(found["ratio"], 1, 2), *took, runs)
    return table


def _files(report: Mapping[str, Any]) -> Table:
    table = _table("Files on disk")
    for heading in ("plain", "compact", "compact, zstd"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report["rows"]:
        table.add_row(
            plain_text(row["name"]),
            *(_bytes(row["files"].get(kind)) for kind in ("plain", "compact", "compact zstd")),
        )
    return table


def _work(report: Mapping[str, Any]) -> Table:
    table = _table("MACs per sample, size and accuracy")
    for heading in ("MACs", "parameters", "non-zero", "accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report["rows"]:
        counts = [_count(row[figure]) for figure in ("macs", "parameters", "nonzero")]
        accuracy = NOT_MEASURED if row["accuracy"] is None else percent(row["accuracy"])
        table.add_row(plain_text(row["name"]), *counts, accuracy)
    return table


def _outcome(cell: Mapping[str, Any]) -> str:
    if cell["ratio"] is not None:
        return f"{cell['ratio']['median']:.2f}"
    return "stays dense" if cell["stays_dense"] else NOT_MEASURED


def _not_measured(report: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    return {row["name"]: row["not_measured"] for row in report["rows"]}


def _machine(content: Mapping[str, Any]) -> str:
    threads = content["threads"]
    return f"{content['device']}, {threads} thread{'s' if threads > 1 else ''}, {_CLOCKS[content['clock']]}"


def _table(title: str) -> Table:
    table = titled_table(title)
    table.add_column("", no_wrap=True)
    return table


def _spread(figure: Mapping[str, float], scale: float, digits: int) -> str:
    low, median, high = (f"{figure[key] * scale:.{digits}f}" for key in ("low", "median", "high"))
    return f"{median} ({low}-{high})"


def _bytes(count: int | None) -> str:
    return NOT_MEASURED if count is None else file_size(count)


def _count(count: int | None) -> str:
    return NOT_MEASURED if count is None else f"{count:,}"
