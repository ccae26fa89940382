"""The figure ``per_input.png``: a histogram of multiply-adds an input, with the cheapest and the dearest images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from lightning_dynprune.base import PALETTE, write_atomically

_BINS = 40
_ROWS = 2  # of images, below one another


def draw_compute_per_input(compute: Tensor, cheapest: Tensor, dearest: Tensor, path: Path) -> None:
    """Draw how many inputs take which share of the multiply-adds, above the images that take the least and the most.

    Args:
        compute: multiply-adds of each input as a share of the dense network's, ``(n,)``.
        cheapest: images ``(k, channels, height, width)`` of the least compute, in any range of values.
        dearest: images of the most, likewise.
        path: the PNG file to write.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(3, 2))
    axes: Axes = halves[0].subplots()
    axes.hist(compute.tolist(), bins=_BINS, range=(0, max(1.0, float(compute.max()))), color=PALETTE.sparsity)
    mean = float(compute.mean())
    axes.axvline(mean, color=PALETTE.accuracy, linestyle="--", linewidth=1.2, label=f"mean: {mean:.1%}")
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_xlabel("multiply-adds of an input, as a share of the whole network's")
    axes.set_ylabel("inputs")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    parts: Any = halves[1].subfigures(1, 2)
    for part, name, images in zip(parts, ("least compute", "most compute"), (cheapest, dearest), strict=True):
        part.suptitle(name, fontsize=10)
        columns = max(1, -(-len(images) // _ROWS))
        grid = part.subplots(_ROWS, columns, squeeze=False)
        for position, place in enumerate(grid.flat):
            _draw_image(place, images[position] if position < len(images) else None)
    write_atomically(path, lambda scratch: figure.savefig(scratch, dpi=150, facecolor="white"))


def _draw_image(axes: Axes, image: Tensor | None) -> None:
    axes.set_axis_off()
    if image is None:
        return
    lowest, highest = image.min(), image.max()
    scaled = (image - lowest) / (highest - lowest).clamp(min=1e-12)
    shown: Any = scaled.permute(1, 2, 0) if len(image) == 3 else scaled.mean(0)
    axes.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1)
