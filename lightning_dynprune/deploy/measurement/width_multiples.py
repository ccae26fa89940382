"""Measure the multiples of channels at which the layers of a model run fast on its device."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import check_real, nested_tensors
from lightning_dynprune.coupling import CouplingError, Group, Narrowing, coupled_groups, isolated, run_example
from lightning_dynprune.deploy.measurement.macs import count_macs
from lightning_dynprune.deploy.timing import ratio_clock, time_call, wall_seconds

MULTIPLES = (1, 2, 4, 8)
_REFERENCE = 16  # the multiple that all others are compared with
_MARGIN = 0.03  # a smaller multiple is taken that is this close to the fastest: it prunes more exactly
_LEAST_ROUNDS = 5
_SHORTEST = 2e-3  # seconds of one timing
_NARROW, _WIDE = "narrow", "wide"

Widths = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class WidthMultiples:
    """Times of a model at widths that are divisible by different powers of two.

    Args:
        costs: multiple -> median time, over the time that widths in multiples of 16 take for as many multiply-adds.
        multiple: the smallest one within 3 % of the fastest.
        rounds: number of timings of each.

    Example:
        >>> print(WidthMultiples({1: 1.5, 2: 1.01, 16: 1.0}, multiple=2, rounds=9))
        widths in multiples of 2; times over those of multiples of 16: 1.50 (1), 1.01 (2), 1.00 (16)
    """

    costs: dict[int, float]
    multiple: int
    rounds: int

    def __str__(self) -> str:
        costs = ", ".join(f"{cost:.2f} ({multiple})" for multiple, cost in self.costs.items())
        return f"widths in multiples of {self.multiple}; times over those of multiples of {_REFERENCE}: {costs}"


@torch.no_grad()
def measure_width_multiples(
    model: nn.Module, example_input: Any, *, share: float = 0.5, seconds: float = 4.0, exclude: str | Sequence[str] = ()
) -> WidthMultiples:
    """Time a model narrowed to multiples of 1, 2, 4, 8 and 16 channels, and return the smallest multiple that is fast.

    For each multiple m, every group of coupled channels keeps about the given share of its channels: a number that m
    divides and 2m does not, so that odd widths are compared with even ones, those with multiples of four, and so on.
    Two forms with multiples of 16, one narrower and one wider, tell the time to expect for as many multiply-adds. All
    forms are timed in turns, and the model is restored.

    Args:
        model: the network; its values and mode are the same afterwards.
        example_input: a tensor, a tuple or list of arguments, or a mapping of keyword arguments, of the batch size in
            use, on the model's device.
        share: of the channels that are kept, in (0, 1].
        seconds: approximate duration.
        exclude: globs on names of parameters that keep their shapes.

    Raises:
        CouplingError: no channels of the model can be removed.
        ValueError: a setting is out of range.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 2))
        >>> measure_width_multiples(net, torch.randn(1, 3), seconds=0.01).multiple in (1, 2, 4, 8, 16)
        True
    """
    share, seconds = check_real("share", share, low=0, high=1), check_real("seconds", seconds, low=1e-3)
    if share == 0:
        raise ValueError("share=0 is not accepted; give a share of the channels in (0, 1]")
    coupling = coupled_groups(model, example_input, exclude=exclude, verify=False)
    if not coupling.groups:
        raise CouplingError(f"round_to: no channels of {type(model).__name__} can be removed, so none are rounded")
    widths: dict[str, list[int]] = {
        _NARROW: [_multiple(group.units, 0.7 * share) for group in coupling.groups],
        _WIDE: [_multiple(group.units, 1.3 * share) for group in coupling.groups],
    }
    widths |= {str(m): [_odd_multiple(group.units, share, m) for group in coupling.groups] for m in MULTIPLES}
    times, macs = _measure(model, example_input, coupling.groups, widths, seconds)
    costs = {m: _cost(str(m), times, macs) for m in MULTIPLES} | {_REFERENCE: 1.0}
    best = min(costs.values())
    chosen = next(m for m in costs if costs[m] <= (1 + _MARGIN) * best)
    return WidthMultiples(costs, chosen, len(times[_WIDE]))


def _measure(
    model: nn.Module, example: Any, groups: Sequence[Group], widths: Widths, seconds: float
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the seconds of a call in each round, and the multiply-adds of a call, of each form."""
    device = next((tensor.device for tensor in nested_tensors(example)), torch.device("cpu"))
    clock = ratio_clock(device)
    times: dict[str, list[float]] = {form: [] for form in widths}
    macs: dict[str, int] = {}
    order, random = list(widths), Random(0)
    repeats = 1
    end = wall_seconds() + seconds
    with isolated(model):
        while len(times[_WIDE]) < _LEAST_ROUNDS or wall_seconds() < end:
            random.shuffle(order)
            for form in order:
                change = Narrowing(model, trial=True)
                try:
                    change.narrow(
                        groups, [_kept(group.units, w) for group, w in zip(groups, widths[form], strict=True)]
                    )
                    if form not in macs:
                        macs[form] = count_macs(model, example)
                    waiting, computing = time_call(lambda: run_example(model, example), repeats, device)
                finally:
                    change.undo()
                if repeats * waiting < _SHORTEST and not times[_WIDE]:
                    repeats = max(repeats, min(1000, int(_SHORTEST / waiting) + 1))
                times[form].append(waiting if clock == "wall" else computing)
    return times, macs


def _cost(form: str, times: Mapping[str, Sequence[float]], macs: Mapping[str, int]) -> float:
    """Return the median over the rounds of a form's time over what is between the narrow and the wide form."""
    span = macs[_WIDE] - macs[_NARROW]
    place = (macs[form] - macs[_NARROW]) / span if span else 1.0
    return statistics.median(
        own / (narrow + place * (wide - narrow))
        for own, narrow, wide in zip(times[form], times[_NARROW], times[_WIDE], strict=True)
    )


def _multiple(units: int, share: float) -> int:
    """Return the multiple of 16 nearest to a share of the units, at least one; all units where there are fewer."""
    return min(units, max(1, round(share * units / _REFERENCE)) * _REFERENCE)


def _odd_multiple(units: int, share: float, multiple: int) -> int:
    """Return the width nearest to a share of the units that a multiple divides, and twice the multiple does not.

    Example:
        >>> [_odd_multiple(64, 0.5, multiple) for multiple in (1, 2, 4, 8)]
        [31, 30, 28, 24]
    """
    return min(range(multiple, units + 1, 2 * multiple), key=lambda width: abs(width - share * units), default=units)


def _kept(units: int, width: int) -> Tensor:
    return torch.arange(units) < width
