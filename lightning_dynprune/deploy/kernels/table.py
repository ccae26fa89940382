"""Format a choice of kernels as a text table."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_dynprune.deploy.kernels.layer_choice import DENSE, LayerChoice
from lightning_dynprune.deploy.kernels.selection_criteria import format_ratio
from lightning_dynprune.deploy.timing import Clock, Ratio

_CLOCKS = {"cpu": "CPU time, one thread", "wall": "wall time"}


def choice_table(layers: Sequence[LayerChoice], ratio: Ratio | None, difference: float, clock: Clock) -> str:
    """Return a table with a row for each layer: its kernel, the microseconds of each candidate, and the reason.

    Each kernel has a column with its fastest settings, in brackets where there are several. A star marks the chosen
    kernel and a dash one that was not timed; the reasons are listed under the table.

    Args:
        layers: the choices.
        ratio: speed-up of the whole model over dense.
        difference: of the whole model's output, relative to its largest value.
        clock: clock of the times.

    Example:
        >>> from lightning_dynprune.deploy.timing import Latency
        >>> seconds = {"dense": 4e-4, "block 8": 9e-5, "csr": 7.5e-5}
        >>> took = {label: Latency(median, median, median, 9) for label, median in seconds.items()}
        >>> layer = LayerChoice("head", (64, 32), "csr", {}, "5.33x dense", took, {"slim": "no input is zero"})
        >>> print(choice_table([layer], Ratio(2.0, 1.9, 2.1, 9), 1e-7, "wall"))
        layer  shape     kernel  dense  block     csr    why
        head   32 -> 64  csr     400.0  90.0 (8)  75.0*  5.33x dense
        <BLANKLINE>
        microseconds a forward, wall time
        not measured: slim: no input is zero (head)
        whole model: 2.00x dense (1.90-2.10), 9 rounds, differs by 1e-07
    """
    kernels = list(dict.fromkeys([DENSE, *(label.split()[0] for layer in layers for label in layer.latencies)]))
    rows = [["layer", "shape", "kernel", *kernels, "why"]]
    for layer in layers:
        outputs, inputs = layer.shape
        times = [_time(layer, kernel) for kernel in kernels]
        rows.append([_name(layer), f"{inputs} -> {outputs}", layer.label, *times, layer.why])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", f"microseconds a forward, {_CLOCKS[clock]}", *_rejection_lines(layers)]
    if ratio is None:
        return "\n".join([*lines, "whole model: all layers stay dense, nothing to compare"])
    whole = f"whole model: {format_ratio(ratio)}, {ratio.rounds} rounds, differs by {difference:.0e}"
    return "\n".join([*lines, whole])


def _name(layer: LayerChoice) -> str:
    return layer.name or "(model)"


def _time(layer: LayerChoice, kernel: str) -> str:
    """Return the time of a kernel's fastest candidate."""
    took = {label: latency.median for label, latency in layer.latencies.items() if label.split()[0] == kernel}
    if not took:
        return "-"
    label = layer.label if layer.label in took else min(took, key=lambda label: took[label])
    settings = f" ({' '.join(label.split()[1:])})" if " " in label else ""
    return f"{took[label] * 1e6:.1f}" + settings + ("*" if label == layer.label != DENSE else "")


def _rejection_lines(layers: Sequence[LayerChoice]) -> list[str]:
    """Return a line for each kernel and reason, with the layers that it applies to."""
    held: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        for label, why in layer.rejections.items():
            held.setdefault((label, why), []).append(_name(layer))
    return [f"not measured: {label}: {why} ({', '.join(names)})" for (label, why), names in held.items()]
