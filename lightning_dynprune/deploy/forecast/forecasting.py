"""Measure on random zeros how much faster each pattern would make a model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from lightning_dynprune.base import check_real, check_share
from lightning_dynprune.deploy.exporting import Example
from lightning_dynprune.deploy.forecast.forecast_result import Cell, Forecast
from lightning_dynprune.deploy.forecast.speedup import KernelSpeedup, SlimmingSpeedup, SpeedupEstimator
from lightning_dynprune.deploy.measurement import device_name, examples_by_batch
from lightning_dynprune.deploy.timing import Latency, gc_frozen, ratio_clock, time_interleaved, wall_seconds
from lightning_dynprune.patterns import NM, PATTERNS, Channel, CoupledPattern, Pattern, TargetPattern
from lightning_dynprune.schedules import SCHEDULES
from lightning_dynprune.strategies import STRATEGIES
from lightning_dynprune.targets import Selector, Target, Targets, find_targets
from lightning_dynprune.thresholds import THRESHOLDS

DEFAULTS: tuple[Any, ...] = (
    "channel",
    {"name": "block", "pad": True},
    "element",
    {"name": "n_m", "pad": True},
)


@torch.no_grad()
@gc_frozen()
def preflight(
    model: nn.Module,
    example_input: Any,
    *,
    patterns: Sequence[str | Pattern | Mapping[str, Any]] = DEFAULTS,
    batches: Sequence[int] = (1, 32),
    sparsities: Sequence[float] = (0.5, 0.7, 0.9),
    targets: Targets = None,
    exclude: Selector | Sequence[Selector] = (),
    seconds: float = 20.0,
) -> Forecast:
    """Return how many times as fast as dense a pruned model would be, by pattern, sparsity and batch size.

    Zeros are placed at random, the same share in each target, because time depends only on their number and units. For
    channels, narrow models are measured. For the other patterns, one Linear of each size is timed with every kernel,
    and the whole model with the fastest of them. Then the whole model is timed against dense. Accuracy is not
    considered.

    Small batches and high sparsities are measured first. If a pattern is not faster at one sparsity, lower ones are
    skipped. Whatever does not fit into the time is reported as "not measured".

    Args:
        model: the network, trained or not, on its device; it is not changed.
        example_input: a tensor, a tuple of tensors or a mapping from names to tensors, batch dimension first.
        patterns: names, mappings or instances.
        batches: batch sizes.
        sparsities: shares of the connections.
        targets: parameters to prune; see :func:`~lightning_dynprune.targets.find_targets`.
        exclude: parameters not to prune.
        seconds: approximate duration of all measurements.

    Raises:
        ValueError: a setting is invalid.
        TypeError: an input is not a tensor.

    Example:
        >>> net = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))
        >>> found = preflight(net, torch.zeros(1, 256), batches=[1], sparsities=[0.9], seconds=2.0)
        >>> found.patterns
        ['channel', 'block 32x1', 'element', 'n_m 2:4']
        >>> found.verdicts["n_m 2:4"]
        'not measured: 2:4 is multiplied by the tensor cores of NVIDIA GPUs; the model is on cpu'
    """
    began = wall_seconds()
    seconds = check_real("seconds", seconds, low=0.1)
    shares = sorted({check_share("sparsities", share) for share in sparsities}, reverse=True)
    examples = examples_by_batch(example_input, batches)
    built = [PATTERNS.build(pattern) for pattern in patterns]
    if not shares or not built:
        raise ValueError("patterns and sparsities need one entry each, at least")
    model = copy.deepcopy(model).eval()
    found = find_targets(model, targets, exclude)
    budget = _Budget(began + seconds)
    dense = _dense(model, examples, budget)
    estimators = [_estimator_for(pattern, model, found, examples) for pattern in built]
    cells: dict[tuple[str, float, int], Cell] = {}
    for batch, example in sorted(examples.items()):
        for share in shares:
            for pattern, estimator in zip(built, estimators, strict=True):
                not_faster = next((c for c in cells.values() if _rules_out(c, pattern.label, share, batch)), None)
                cell = Cell(pattern.label, share, batch)
                cells[pattern.label, share, batch] = _measure_cell(
                    cell, estimator, example, dense.get(batch), not_faster, budget
                )
    device = next(iter(examples.values())).tensors[0].device
    ordered = [cells[p.label, share, batch] for p in built for share in reversed(shares) for batch in examples]
    taken = wall_seconds() - began
    return Forecast(ordered, dense, device_name(device), torch.get_num_threads(), ratio_clock(device), taken)


@dataclass(frozen=True)
class _Budget:
    """A deadline, on the clock of :func:`~lightning_dynprune.deploy.timing.latency.wall_seconds`."""

    until: float

    @property
    def left(self) -> float:
        return self.until - wall_seconds()


def _dense(model: nn.Module, examples: Mapping[int, Example], budget: _Budget) -> dict[int, Latency]:
    """Return the latency of the dense model, for the batch sizes that a tenth of the time suffices for."""
    latencies: dict[int, Latency] = {}
    seconds_per_sample = 0.0
    for batch, example in sorted(examples.items()):
        if 4 * batch * seconds_per_sample > budget.left / 10:
            break
        call = partial(model, *example.args, **example.kwargs)
        call()
        latencies[batch] = time_interleaved({"dense": call}, rounds=1, device=example.tensors[0].device).latency(
            "dense"
        )
        seconds_per_sample = latencies[batch].median / batch
    return latencies


def _estimator_for(
    pattern: Pattern, model: nn.Module, targets: list[Target], examples: Mapping[int, Example]
) -> SpeedupEstimator | str:
    """Return how a pattern saves time, or why it cannot."""
    device = next(iter(examples.values())).tensors[0].device
    if isinstance(pattern, Channel):
        return SlimmingSpeedup(model, targets, examples[min(examples)])
    if isinstance(pattern, CoupledPattern):
        return "heads hold too few connections to reach such sparsities; measure a pruned model instead"
    if isinstance(pattern, NM) and device.type != "cuda":
        return (
            f"{pattern.n}:{pattern.m} is multiplied by the tensor cores of NVIDIA GPUs; the model is on {device.type}"
        )
    try:
        schedule = SCHEDULES.build({"name": "cubic", "final": 0.5})
        pattern.check(targets, STRATEGIES.build("magnitude"), THRESHOLDS.build("topk"), schedule)
    except ValueError as error:
        return f"it would be rejected: {error}"
    assert isinstance(pattern, TargetPattern)  # coupled patterns returned above
    return KernelSpeedup(model, pattern, targets, captured=isinstance(pattern, NM))


def _rules_out(cell: Cell, pattern: str, share: float, batch: int) -> bool:
    """Return whether a cell implies that a lower sparsity of the same pattern and batch is not faster."""
    same = cell.pattern == pattern and cell.batch == batch and cell.sparsity > share
    return same and cell.is_measured and not cell.pays


def _measure_cell(
    cell: Cell,
    estimator: SpeedupEstimator | str,
    example: Example,
    dense: Latency | None,
    not_faster: Cell | None,
    budget: _Budget,
) -> Cell:
    if isinstance(estimator, str):
        return _unmeasured(cell, note=estimator)
    if dense is None:
        return _unmeasured(cell, note=f"a call with {cell.batch} samples takes too long for the given time")
    if not_faster is not None:
        return _unmeasured(cell, note=f"it does not pay at {100 * not_faster.sparsity:.0f} % either")
    needed = estimator.estimated_seconds(dense.median)
    if needed > budget.left:
        return _unmeasured(cell, note=f"it would take about {needed:.0f} s, and {max(budget.left, 0):.0f} s are left")
    try:
        ratio, note = estimator.ratio(cell.sparsity, example, dense.median)
    except (ValueError, RuntimeError, ImportError) as error:
        return _unmeasured(cell, note=str(error).partition("\n")[0])
    return Cell(cell.pattern, cell.sparsity, cell.batch, ratio, ratio is None, note)


def _unmeasured(cell: Cell, note: str) -> Cell:
    return Cell(cell.pattern, cell.sparsity, cell.batch, note=note)
