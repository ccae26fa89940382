"""The colors that all figures share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Palette:
    """Colors of the figures, each as a hexadecimal string.

    Args:
        series: colors of curves that are drawn side by side.
        accuracy: accuracy of the pruned network.
        sparsity: sparsity.
        dropped: connections that an update pruned.
        grown: connections that an update returned.
        overall: a sum over all targets.
        muted: the dense network, notes and other references.
        grid: grid lines.
    """

    series: tuple[str, ...] = (
        "#0b6e99", "#c8553d", "#5b8c5a", "#8a5fa8", "#c99a2e", "#4c5b8f", "#a8576b", "#3d8f8f"
    )  # fmt: skip
    accuracy: str = "#0b6e99"
    sparsity: str = "#c8553d"
    dropped: str = "#c8553d"
    grown: str = "#5b8c5a"
    overall: str = "#111827"
    muted: str = "#6b7280"
    grid: str = "#e5e7eb"


PALETTE = Palette()
