"""Multiply-adds of a gated network, and the channels that a budget of them leaves live."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_dynprune.adaptive.gates.gate_layout import GatedLayer

LEVELS = 48  # of densities that thresholds are found for
_STEPS = 512  # of densities that a fixed budget chooses from


def compute_of(layers: Sequence[GatedLayer], live: Sequence[Tensor]) -> Tensor:
    """Return the multiply-adds of each input as a share of the dense network's, float64 ``(n,)``.

    A gated convolution computes its live output channels alone, and of gated input channels reads the live ones alone;
    its gate is added, and the rest of the network.

    Args:
        layers: the gated convolutions.
        live: number of live channels of each layer, ``(n,)``.
    """
    total = torch.full(live[0].shape, 1 - sum(layer.share for layer in layers), dtype=torch.float64)
    for layer, own in zip(layers, live, strict=True):
        written = own.double() / layer.outputs
        read = live[layer.source].double() / layer.inputs if layer.source >= 0 else 1.0
        total = total + layer.share * written * read + layer.gate_share
    return total


def fixed_compute(layers: Sequence[GatedLayer], counts: Sequence[int]) -> float:
    """Return the multiply-adds of an input with fixed numbers of live channels, as a share of the dense network's."""
    return float(compute_of(layers, [torch.tensor([count]) for count in counts])[0])


def counts_of(layers: Sequence[GatedLayer], density: float) -> list[int]:
    r"""Return the number of live channels of each layer, :math:`\lceil d C \\rceil`."""
    return [math.ceil(density * layer.outputs - 1e-9) for layer in layers]


def counts_for(layers: Sequence[GatedLayer], budget: float) -> list[int]:
    """Return numbers of live channels whose multiply-adds are the budget, or as little below it as possible.

    All layers have one density, and then single channels are added to one layer after the other.

    Args:
        layers: the gated convolutions.
        budget: share of the dense network's multiply-adds.

    Raises:
        ValueError: one live channel a layer is above the budget; the message says how much it takes.
    """
    least = [1] * len(layers)
    if (cheapest := fixed_compute(layers, least)) > budget:
        raise ValueError(
            f"budget={budget:g} is out of reach: with one live channel in each gated layer the network takes "
            f"{cheapest:.4f} of the multiply-adds; give at least that, or gate more of its convolutions"
        )
    steps = [counts_of(layers, step / _STEPS) for step in range(1, _STEPS + 1)]
    counts = max((each for each in steps if fixed_compute(layers, each) <= budget), default=least, key=sum)
    has_grown = True
    while has_grown:
        has_grown = False
        for number, layer in enumerate(layers):
            more = [count + (position == number) for position, count in enumerate(counts)]
            if counts[number] < layer.outputs and fixed_compute(layers, more) <= budget:
                counts, has_grown = more, True
    return counts


def between_levels(thresholds: Tensor, means: Tensor, budget: float) -> tuple[Tensor, float]:
    """Return thresholds whose mean multiply-adds are a budget, between those of two levels, and what they give.

    Args:
        thresholds: of each level and layer, ``(levels, layers)``.
        means: mean multiply-adds of each level.
        budget: share of the dense network's multiply-adds.

    Raises:
        ValueError: even the lowest level is above the budget; the message says how much it takes.

    Example:
        >>> between_levels(torch.tensor([[0.5], [0.25]]), torch.tensor([0.25, 0.75]), 0.5)
        (tensor([0.3750]), 0.5)
    """
    possible = (means <= budget).nonzero()[:, 0]
    if not len(possible):
        raise ValueError(
            f"budget={budget:g} is out of reach: with one live channel in each gated layer the network takes "
            f"{float(means.min()):.4f} of the multiply-adds; give at least that, or gate more of its convolutions"
        )
    low = int(possible[-1])
    if low + 1 == len(means):
        return thresholds[low].clone(), float(means[low])
    share = (budget - float(means[low])) / (float(means[low + 1]) - float(means[low]))
    return torch.lerp(thresholds[low], thresholds[low + 1], share), budget
