"""Find the thresholds of gates for a range of mean densities, on held-out inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_dynprune.adaptive.base import Batches
from lightning_dynprune.adaptive.forward_cut import batch_of, part_of
from lightning_dynprune.adaptive.gates.gate import above
from lightning_dynprune.adaptive.gates.gate_budget import LEVELS, compute_of
from lightning_dynprune.adaptive.gates.gate_layout import GatedLayer
from lightning_dynprune.adaptive.gates.gated_network import GatedNetwork
from lightning_dynprune.adaptive.labelled import device_of, labelled_batches
from lightning_dynprune.base import call_model
from lightning_dynprune.distributed import Ranks

_FOR_THRESHOLDS, _FOR_MEANS = 256, 1024  # held-out inputs of each process, the first in one batch


@torch.no_grad()
def threshold_levels(
    network: GatedNetwork, layers: Sequence[GatedLayer], held_out: Batches, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """Return thresholds of each layer for mean densities from low to high, and the mean multiply-adds of each level.

    The gates of a layer depend on the channels that are live before it, so a level is found from the first layer to
    the last in one forward. Its multiply-adds are then the mean over more inputs.

    Args:
        network: with its gates; which channels are live is changed.
        layers: the gated convolutions.
        held_out: pairs of inputs and labels of this process.
        ranks: the processes.

    Returns:
        The thresholds, float32 ``(levels, layers)``, and the means, float64 ``(levels,)``.

    Raises:
        ValueError: there are no inputs.
    """
    with ranks.raise_together():
        batches = _first_batches(network, held_out)
    levels, means = [], []
    for level in range(1, LEVELS + 1):
        thresholds: dict[int, float] = {}

        def select(number: int, values: Tensor, level: int = level, found: dict[int, float] = thresholds) -> Tensor:
            if number not in found:
                (everyone,) = ranks.concat_each([values.flatten()])
                found[number] = _threshold(everyone, level / LEVELS)
            return above(values, found[number])

        network.select = select
        call_model(network, part_of(batches[0], slice(0, _FOR_THRESHOLDS)))
        total = torch.zeros(2, dtype=torch.float64)
        for inputs in batches:
            call_model(network, inputs)
            live = [network.live[number].sum(1).cpu() for number in range(len(layers))]
            compute = compute_of(layers, live)
            total += torch.tensor([float(compute.sum()), len(compute)], dtype=torch.float64)
        total = ranks.sum(total)
        levels.append([thresholds[number] for number in range(len(layers))])
        means.append(float(total[0] / total[1]))
    return torch.tensor(levels), torch.tensor(means, dtype=torch.float64)


def _first_batches(network: GatedNetwork, held_out: Batches) -> list[Any]:
    batches: list[Any] = []
    for inputs, _ in labelled_batches(held_out, device_of(network), "held_out"):
        batches.append(inputs)
        if sum(map(batch_of, batches)) >= _FOR_MEANS:
            break
    if not batches:
        raise ValueError("held_out has no inputs; give batches of inputs and labels")
    return batches


def _threshold(values: Tensor, density: float) -> float:
    """Return the number just below the gate of a rank, so that this gate is live; at least 0, as a gate of 0 never is.

    Example:
        >>> values = torch.tensor([0.5, 0.25, 0.75, 0.0])
        >>> (values > _threshold(values, 0.5)).tolist(), _threshold(values, 1.0)
        ([True, False, True, False], 0.0)
    """
    finite = values[values.isfinite()].float()
    rank = max(1, math.ceil(density * len(finite) - 1e-9))
    value = finite.kthvalue(len(finite) - rank + 1).values
    return max(0.0, float(torch.nextafter(value, torch.tensor(-math.inf, device=value.device))))
