"""A choice as a plain table."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_dynprune.deploy.kernels.choice import DENSE, LayerChoice
from lightning_dynprune.deploy.kernels.terms import spread
from lightning_dynprune.deploy.latency import Clock, Ratio

_CLOCKS = {"cpu": "CPU time, one thread", "wall": "wall time"}


def choice_table(layers: Sequence[LayerChoice], ratio: Ratio | None, difference: float, clock: Clock) -> str:
    """Return a table with a row for each layer: its kernel, the microseconds of each candidate, and why.

    A star marks the chosen candidate, a dash one that was not measured; the refusals stand under the table.

    Args:
        layers: the choices.
        ratio: whole model against dense.
        difference: of the whole model's output, as a share of its largest value.
        clock: what the microseconds were read from.

    Example:
        >>> from lightning_dynprune.deploy.latency import Latency
        >>> took = {"dense": Latency(4e-4, 4e-4, 4e-4, 9), "csr": Latency(1e-4, 1e-4, 1e-4, 9)}
        >>> layer = LayerChoice("head", (64, 32), "csr", {}, "4.00x", took, {"slim": "no input is zero"})
        >>> print(choice_table([layer], Ratio(2.0, 1.9, 2.1, 9), 1e-7, "wall"))
        layer  shape     kernel  dense    csr  why
        head   32 -> 64  csr     400.0  100.0* 4.00x
        <BLANKLINE>
        microseconds a forward, wall time
        not measured: slim: no input is zero (head)
        whole model: 2.00x dense (1.90-2.10), 9 rounds, differs by 1e-07
    """
    labels = list(dict.fromkeys([DENSE, *(label for layer in layers for label in layer.latencies)]))
    rows = [["layer", "shape", "kernel", *labels, "why"]]
    for layer in layers:
        times = [_time(layer, label) for label in labels]
        outputs, inputs = layer.shape
        rows.append([layer.name or "(model)", f"{inputs} -> {outputs}", layer.label, *times, layer.why])
    widths = [max(len(row[column].rstrip("*")) for row in rows) for column in range(len(rows[0]))]
    lines = [_line(row, widths) for row in rows]
    lines += ["", f"microseconds a forward, {_CLOCKS[clock]}", *_refused(layers)]
    if ratio is None:
        return "\n".join([*lines, "whole model: all layers stay dense, nothing to compare"])
    whole = f"whole model: {spread(ratio)}, {ratio.rounds} rounds, differs by {difference:.0e}"
    return "\n".join([*lines, whole])


def _time(layer: LayerChoice, label: str) -> str:
    if label not in layer.latencies:
        return "-"
    return f"{layer.latencies[label].median * 1e6:.1f}" + ("*" if label == layer.label and label != DENSE else "")


def _line(row: list[str], widths: list[int]) -> str:
    cells = []
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        if column < 3:
            cells.append(cell.ljust(width + 2))
        elif column < len(row) - 1:
            star = cell[-1] if cell.endswith("*") else " "
            cells.append(cell.rstrip("*").rjust(width) + star + " ")
        else:
            cells.append(cell)
    return "".join(cells).rstrip()


def _refused(layers: Sequence[LayerChoice]) -> list[str]:
    """Return a line for each kernel and reason, with the layers that it holds for."""
    held: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        for label, why in layer.refusals.items():
            held.setdefault((label, why), []).append(layer.name or "(model)")
    return [f"not measured: {label}: {why} ({', '.join(names)})" for (label, why), names in held.items()]
