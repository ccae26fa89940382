"""Measure an adapted network against the fastest dense form, and run it only where it is faster."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import PREFIX, AdaptiveModule
from lightning_dynprune.adaptive.folded_norms import dense_form
from lightning_dynprune.adaptive.forward_cut import batch_of
from lightning_dynprune.adaptive.labelled import device_of, last_position
from lightning_dynprune.adaptive.stages import flat_form
from lightning_dynprune.base import call_model, check_count, check_real, map_tensors
from lightning_dynprune.coupling import isolated
from lightning_dynprune.deploy.measurement import device_name
from lightning_dynprune.deploy.timing import Clock, Ratio, time_interleaved, wall_seconds

DENSE, ADAPTIVE = "dense", "adaptive"
_INPUTS = 64  # that one timed pass covers: more take longer, fewer miss the rare late exits
_MARGIN = 0.05  # how much faster than dense a batch size must be


@dataclass(frozen=True)
class BatchSpeed:
    """The measurement at one batch size.

    Args:
        ratio: how many times as fast as the fastest dense form, over all inputs of the example in turn.
        p50: median over calls of the wall-clock seconds of one call, ``(dense, adaptive)``.
        p95: 95th percentile, likewise.
        is_adaptive: whether the network runs per input at this batch size.
    """

    ratio: Ratio
    p50: tuple[float, float]
    p95: tuple[float, float]
    is_adaptive: bool


class Deployed(nn.Module):
    """A network for inference that runs per input where that was measured to be faster, and dense elsewhere.

    It returns class scores, ``(n, classes)``. A batch size that was not measured runs as both measured sizes around it
    do, and dense where these differ, or above the largest one. ``str()`` is a table of the measurements.

    Args:
        dense: the fastest dense form.
        adaptive: the network that runs per input.
        speeds: batch size -> what was measured.
        device: name of the device.
        clock: clock of the ratios.
    """

    def __init__(
        self, dense: nn.Module, adaptive: nn.Module, speeds: Mapping[int, BatchSpeed], device: str, clock: Clock
    ) -> None:
        super().__init__()
        self.dense, self.adaptive = dense, adaptive
        self.speeds, self.device_name, self.clock = dict(sorted(speeds.items())), device, clock

    def runs_adaptive(self, batch: int) -> bool:
        """Return whether a batch size runs per input.

        Args:
            batch: number of inputs.
        """
        if batch in self.speeds:
            return self.speeds[batch].is_adaptive
        below = [size for size in self.speeds if size < batch]
        above = [size for size in self.speeds if size > batch]
        around = [max(below)] if below else []
        return bool(above) and all(self.speeds[size].is_adaptive for size in [*around, min(above)])

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the class scores of inputs."""
        inputs = kwargs or args
        if self.runs_adaptive(batch_of(inputs)):
            scores: Tensor = self.adaptive(*args, **kwargs)
            return scores
        dense: Tensor = last_position(self.dense(*args, **kwargs))
        return dense

    def to_dict(self) -> dict[str, Any]:
        """Return what was measured as plain values, for JSON: seconds, and ratios to the dense form."""
        return {
            str(batch): {
                "ratio": {"low": speed.ratio.low, "median": speed.ratio.median, "high": speed.ratio.high},
                "dense": {"p50": speed.p50[0], "p95": speed.p95[0]},
                "adaptive": {"p50": speed.p50[1], "p95": speed.p95[1]},
                "is_adaptive": speed.is_adaptive,
            }
            for batch, speed in self.speeds.items()
        }

    def __str__(self) -> str:
        lines = [f"{self.device_name}, {torch.get_num_threads()} threads, ratios by {self.clock} time"]
        for batch, speed in self.speeds.items():
            runs = "per input" if speed.is_adaptive else "dense"
            lines.append(
                f"batch {batch}: {speed.ratio.median:.2f} ({speed.ratio.low:.2f} to {speed.ratio.high:.2f}) times as "
                f"fast as dense; p50 {_ms(speed.p50)}, p95 {_ms(speed.p95)}; runs {runs}"
            )
        return "\n".join(lines)


def deploy(model: nn.Module, module: AdaptiveModule, example: Any, batches: Sequence[int], seconds: float) -> Deployed:
    """Return a copy of an adapted network that runs per input where that is faster.

    Args:
        model: the network; it is not changed.
        module: of the method.
        example: many inputs like those in use.
        batches: batch sizes to measure.
        seconds: approximate duration of the measurement at each batch size.

    Raises:
        ValueError: a setting is out of range.
    """
    seconds, sizes = check_real("seconds", seconds, low=1e-3), [check_count("batches", size) for size in batches]
    if not sizes or len(set(sizes)) != len(sizes):
        raise ValueError(f"batches={list(batches)} is not accepted; give one or more different numbers of inputs")
    device = device_of(model)
    example = map_tensors(lambda tensor: tensor.to(device), example)
    few = map_tensors(lambda tensor: tensor[:3], example)
    with isolated(model), torch.no_grad():
        plain = copy.deepcopy(model).eval()
        own = copy.deepcopy(module).eval().for_inference(few)
        delattr(plain, PREFIX)
        dense = dense_form(plain, few)
        adaptive = own.fast_runner(dense, example, seconds)
        dense = own.dense_rival(flat_form(dense, few), example, seconds)
        speeds = {size: measure_speed(dense, adaptive, example, size, seconds) for size in sizes}
        clock: Clock = "cpu" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall"
    return Deployed(dense, adaptive, speeds, device_name(device), clock)


@torch.no_grad()
def measure_speed(dense: nn.Module, adaptive: nn.Module, example: Any, batch: int, seconds: float) -> BatchSpeed:
    """Return how fast a network is beside another on the same inputs, in interleaved rounds.

    Every timed pass goes through the same inputs, so that a ratio is that of the mean times.

    Args:
        dense: the network to compare with.
        adaptive: the other network.
        example: many inputs.
        batch: number of inputs of one call.
        seconds: approximate duration.
    """
    count = batch_of(example)
    calls = -(-min(max(count, batch), max(_INPUTS, batch)) // batch)
    device = device_of(dense)
    # Evenly spaced, as an example may be sorted by class.
    order = (torch.arange(calls * batch) * count // (calls * batch)).to(device)
    parts = [_part(example, chosen) for chosen in torch.split(order, batch)]
    times: dict[str, list[list[float]]] = {name: [[] for _ in parts] for name in (DENSE, ADAPTIVE)}

    def run(name: str, network: nn.Module) -> Callable[[], None]:
        def run_all() -> None:
            for position, part in enumerate(parts):
                began = wall_seconds()
                call_model(network, part)
                if device.type != "cpu":
                    torch.accelerator.synchronize(device)
                times[name][position].append(wall_seconds() - began)

        return run_all

    rounds = time_interleaved(
        {DENSE: run(DENSE, dense), ADAPTIVE: run(ADAPTIVE, adaptive)}, seconds=seconds, device=device
    )
    ratio = rounds.ratio(ADAPTIVE, DENSE)
    # Of each call the median over the rounds: the spread that is left is that between inputs.
    typical = {name: [statistics.median(each) for each in times[name]] for name in times}
    p50, p95 = ((_quantile(typical[DENSE], share), _quantile(typical[ADAPTIVE], share)) for share in (0.5, 0.95))
    return BatchSpeed(ratio, p50, p95, ratio.low > 1 and ratio.median >= 1 + _MARGIN)


def _part(example: Any, chosen: Tensor) -> Any:
    return map_tensors(lambda tensor: _laid_out(tensor[chosen]), example)


def _laid_out(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor.contiguous()


def _quantile(values: Sequence[float], share: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(share))


def _ms(seconds: tuple[float, float]) -> str:
    return f"{seconds[0] * 1e3:.3f} -> {seconds[1] * 1e3:.3f} ms"
