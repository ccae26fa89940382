"""Magnitudes of the inputs of layers on calibration data, and samples of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import Batches
from lightning_dynprune.adaptive.labelled import device_of, labelled_batches
from lightning_dynprune.base import call_model
from lightning_dynprune.distributed import Ranks

# The sign dropped, the upper 15 bits of a float32 number the bins: 128 a power of two.
_SHIFT, _BINS = 16, 2**15
_FINITE_BINS = 255 * 2**7
QUANTILES = 256


@torch.no_grad()
def magnitude_histograms(model: nn.Module, names: Sequence[str], batches: Batches, ranks: Ranks, name: str) -> Tensor:
    """Return how often each magnitude occurs among the inputs of layers, int64 ``(layers, bins)``, over all processes.

    Args:
        model: the network, in eval mode.
        names: of the layers.
        batches: pairs of inputs and labels of this process.
        ranks: the processes.
        name: of the batches, for messages.

    Raises:
        ValueError: there are no inputs, or none is finite.
    """
    counts = torch.zeros(len(names), _BINS, dtype=torch.int64)

    def add(position: int, rows: Tensor) -> None:
        counts[position] += torch.bincount(magnitude_bins(rows).flatten(), minlength=_BINS).cpu()

    with ranks.raise_together():
        _for_each_input(model, names, batches, add, name)
    counts = ranks.sum(counts)
    counts[:, _FINITE_BINS:] = 0
    _check_finite(names, counts.sum(1), name)
    return counts


def magnitude_bins(values: Tensor) -> Tensor:
    """Return the bin of each number's magnitude, int64: the upper bits of its float32 form."""
    return (values.float().abs().contiguous().view(torch.int32) >> _SHIFT).long()


def magnitude_quantiles(counts: Tensor) -> Tensor:
    """Return magnitudes under which shares of 0, 1/256, ..., 1 of the inputs lie, float64 ``(layers, 257)``.

    Args:
        counts: of :func:`magnitude_histograms`.

    Example:
        One half zeros, and the others between 1 and 2:

        >>> values = torch.cat([torch.zeros(1000), torch.linspace(1, 2, 1000)])
        >>> counts = torch.bincount(magnitude_bins(values), minlength=2**15)[None]
        >>> [round(float(magnitude_quantiles(counts)[0, k]), 2) for k in (0, 127, 192, 256)]
        [0.0, 0.0, 1.5, 2.02]
    """
    edges = ((torch.arange(_BINS + 1).clamp(max=_FINITE_BINS)) << _SHIFT).int().view(torch.float32).double()
    edges[_FINITE_BINS:] = torch.finfo(torch.float32).max
    # Zero has a bin of its own with the tiniest numbers, all of which count as zero.
    edges[1] = 0.0
    upto = torch.cat([torch.zeros(len(counts), 1, dtype=torch.float64), counts.double().cumsum(1)], 1)
    wanted = torch.linspace(0, 1, QUANTILES + 1, dtype=torch.float64) * upto[:, -1:]
    bins = torch.searchsorted(upto[:, 1:].contiguous(), wanted.contiguous()).clamp(max=_BINS - 1)
    below, inside = upto.gather(1, bins), counts.double().gather(1, bins).clamp(min=1)
    part = ((wanted - below) / inside).clamp(0, 1)
    return edges[bins] + part * (edges[bins + 1] - edges[bins])


def nonzero_shares(counts: Tensor) -> Tensor:
    """Return the share of inputs that are not zero, float64 ``(layers,)``."""
    return 1 - counts[:, 0].double() / counts.sum(1)


@torch.no_grad()
def sampled_rows(
    model: nn.Module, names: Sequence[str], batches: Batches, most: int, ranks: Ranks, name: str
) -> list[Tensor]:
    """Return evenly spaced rows of the inputs of layers, float32 ``(rows, inputs)`` each, of all processes.

    Args:
        model: the network, in eval mode.
        names: of the layers.
        batches: pairs of inputs and labels of this process.
        most: number of rows of a layer and process that are kept at least, where there are so many; less than twice it.
        ranks: the processes.
        name: of the batches, for messages.

    Raises:
        ValueError: there are no inputs, or none is finite.
    """
    samples = [RowSample(most) for _ in names]

    def add(position: int, rows: Tensor) -> None:
        samples[position].add(rows.cpu())

    with ranks.raise_together():
        _for_each_input(model, names, batches, add, name)
    found = []
    for sample in samples:
        rows = sample.rows[sample.rows.isfinite().all(1)]
        (whole,) = ranks.concat_each([rows.flatten()])
        found.append(whole.view(-1, rows.shape[1]))
    _check_finite(names, torch.tensor([len(rows) for rows in found]), name)
    return found


class RowSample:
    """Keeps every k-th of many rows, with k doubled whenever twice as many as wanted are kept.

    Args:
        most: number of rows wanted.

    Example:
        >>> sample = RowSample(2)
        >>> for start in range(0, 9, 3):
        ...     sample.add(torch.arange(start, start + 3.0)[:, None])
        >>> sample.rows.flatten().tolist()
        [0.0, 4.0, 8.0]
    """

    def __init__(self, most: int) -> None:
        self.most, self.stride, self.seen = most, 1, 0
        self.rows = torch.zeros(0, 0)

    def add(self, rows: Tensor) -> None:
        """Add rows ``(n, columns)``."""
        chosen = rows[-self.seen % self.stride :: self.stride].float()
        self.rows = torch.cat([self.rows, chosen]) if self.rows.numel() else chosen.clone()
        self.seen += len(rows)
        while len(self.rows) >= 2 * self.most:
            self.rows, self.stride = self.rows[::2].clone(), 2 * self.stride


def _for_each_input(
    model: nn.Module, names: Sequence[str], batches: Batches, add: Callable[[int, Tensor], None], name: str
) -> None:
    """Pass the rows of each layer's inputs to a function, in all forward passes over batches."""
    is_empty = True
    with _observed(model, names, add):
        for inputs, _ in labelled_batches(batches, device_of(model), name):
            call_model(model, inputs)
            is_empty = False
    if is_empty:
        raise ValueError(f"{name} has no inputs; give batches of inputs and labels")


@contextmanager
def _observed(model: nn.Module, names: Sequence[str], add: Callable[[int, Tensor], None]) -> Iterator[None]:
    def observe(position: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            (inputs,) = args or kwargs.values()
            add(position, inputs.detach().reshape(-1, inputs.shape[-1]))

        return hook

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(observe(position), with_kwargs=True)
        for position, name in enumerate(names)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_finite(names: Sequence[str], counts: Tensor, name: str) -> None:
    empty = [layer for layer, count in zip(names, counts.tolist(), strict=True) if not count]
    if empty:
        raise ValueError(f"{name}: no input of the layer {empty[0]!r} is finite, so it has no threshold; look for NaN")
