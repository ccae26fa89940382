"""The module that channel gates add to a network: gates, and a copy of the network that was trained with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import AdaptiveModule, Batches, Outcome
from lightning_dynprune.adaptive.cascade import check_budget
from lightning_dynprune.adaptive.forward_cut import finite_inputs
from lightning_dynprune.adaptive.gates.gate import ChannelGate, above, largest
from lightning_dynprune.adaptive.gates.gate_budget import (
    LEVELS,
    between_levels,
    compute_of,
    counts_for,
    counts_of,
    fixed_compute,
)
from lightning_dynprune.adaptive.gates.gate_calibration import threshold_levels
from lightning_dynprune.adaptive.gates.gate_layout import GatedLayer
from lightning_dynprune.adaptive.gates.gate_running import GatedRunner, gathers_by_rule, measure_layers
from lightning_dynprune.adaptive.gates.gated_network import GatedNetwork
from lightning_dynprune.adaptive.labelled import last_position
from lightning_dynprune.base import call_model, map_tensors
from lightning_dynprune.deploy.timing import Ratio
from lightning_dynprune.distributed import Ranks

MODES = ("fixed", "mean")


class ChannelGates(AdaptiveModule):
    """Gates of a network's convolutions, and a copy of the network whose weights were trained with them.

    Args:
        network: the copy.
        gates: one a layer.
        layers: the gated convolutions.
        mode: "fixed": every input has the same number of live channels; "mean": gates above thresholds are live.

    Attributes:
        network: as given.
        gates: the gates, by number.
        counts: with mode "fixed" the number of live channels of each layer, int64.
        thresholds: with mode "mean" the value above which a gate of each layer is live, float32.
        layer_speeds: name of each gated convolution -> how many times as fast it is gathered as with its output masked,
            as the last :meth:`fast_runner` measured.
    """

    method: ClassVar[str] = "channel_gate"
    counts: Tensor
    thresholds: Tensor
    level_thresholds: Tensor
    level_compute: Tensor
    expected: Tensor

    def __init__(
        self, network: nn.Module, gates: Sequence[nn.Module], layers: Sequence[GatedLayer], mode: str = "fixed"
    ) -> None:
        super().__init__({"layers": [asdict(layer) for layer in layers], "mode": mode})
        self.network, self.gates = network, nn.ModuleList(gates)
        self.layers, self.mode = tuple(layers), mode
        self.register_buffer("counts", torch.tensor(counts_of(layers, 1.0)))
        self.register_buffer("thresholds", torch.zeros(len(layers)))
        # Of the held-out inputs, so that a budget can be chosen again after the module was loaded.
        self.register_buffer("level_thresholds", torch.zeros(LEVELS, len(layers)))
        self.register_buffer("level_compute", torch.zeros(LEVELS, dtype=torch.float64))
        self.register_buffer("expected", torch.ones((), dtype=torch.float64))
        self.layer_speeds: dict[str, Ratio] = {}

    @property
    def path_names(self) -> tuple[str, ...]:
        """The gated network, and the whole one for inputs that are not finite."""
        return ("gated", "whole")

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the gated convolutions."""
        return tuple(layer.name for layer in self.layers)

    @property
    def summary(self) -> str:
        """The share of live channels, and the multiply-adds that it leaves."""
        of_all = sum(layer.outputs for layer in self.layers)
        how = f"{int(self.counts.sum())} of {of_all} channels" if self.mode == "fixed" else "a mean density"
        return (
            f"{self.method} in {len(self.layers)} convolutions, {how}; {self.mean_compute:.3f} of the multiply-adds "
            "where all of them gather"
        )

    def select(self, number: int, values: Tensor) -> Tensor:
        """Return which channels of a layer are live, 1 or 0, ``(n, channels)``.

        Args:
            number: of the layer.
            values: its gates.
        """
        if self.mode == "fixed":
            return largest(values, int(self.counts[number]))
        return above(values, float(self.thresholds[number]))

    def set_density(self, density: float) -> None:
        """Set the share of live channels of each layer.

        Args:
            density: in (0, 1].
        """
        if self.mode == "fixed":
            self.counts = torch.tensor(counts_of(self.layers, density), device=self.counts.device)
        else:
            level = max(0, round(density * LEVELS) - 1)
            self.thresholds, self.expected = self.level_thresholds[level].clone(), self.level_compute[level].clone()

    def budget(self, share: float) -> None:
        """Set the live channels for a mean compute, to 2 %; with mode "mean" on the held-out inputs.

        Args:
            share: mean multiply-adds as a share of the dense network's, in (0, 1].

        Raises:
            ValueError: the share is out of range or out of reach; the message says what is reachable.
        """
        budget = check_budget(share)
        if self.mode == "fixed":
            self.counts = torch.tensor(counts_for(self.layers, budget), device=self.counts.device)
            return
        if not self.level_compute.any():
            raise ValueError("budget: no held-out inputs are known; calibrate with some first")
        self.thresholds, found = between_levels(self.level_thresholds, self.level_compute, budget)
        self.expected = torch.tensor(found, dtype=torch.float64, device=self.thresholds.device)

    @property
    def mean_compute(self) -> float:
        """Mean multiply-adds as a share of the dense network's; with mode "mean" on the held-out inputs."""
        if self.mode == "fixed":
            return fixed_compute(self.layers, self.counts.tolist())
        return float(self.expected)

    def calibrate(self, held_out: Batches, ranks: Ranks) -> None:
        """Keep what thresholds give on held-out inputs, with mode "mean"; fixed numbers of channels need none.

        Args:
            held_out: pairs of inputs and labels of this process.
            ranks: the processes.

        Raises:
            ValueError: there are no inputs.
        """
        if self.mode == "mean":
            found = threshold_levels(self.gated_network(), self.layers, held_out, ranks)
            self.level_thresholds, self.level_compute = (each.to(self.counts.device) for each in found)

    def gated_network(self) -> GatedNetwork:
        """Return the network with its gates, for training and evaluation."""
        return GatedNetwork(self.network, list(self.gates), self.layers, self.select)

    @torch.no_grad()
    def outcome(self, model: nn.Module, inputs: Any) -> Outcome:
        """Return scores and compute of inputs, by one forward of the network and one of the gated network."""
        whole, network = last_position(call_model(model, inputs)), self.gated_network()
        scores = last_position(call_model(network, inputs))
        is_finite = finite_inputs(inputs).isfinite()
        live = [network.live[number].sum(1).cpu() for number in range(len(self.layers))]
        ones = torch.ones(len(scores), dtype=torch.float64)
        compute = torch.where(is_finite.cpu(), compute_of(self.layers, live), ones)
        densities = {
            layer.name: torch.where(is_finite.cpu(), each / layer.outputs, 1.0)
            for layer, each in zip(self.layers, live, strict=True)
        }
        chosen = torch.where(is_finite[:, None], scores, whole)
        return Outcome(chosen, (~is_finite).long(), compute, whole, densities)

    def runner(self, model: nn.Module, example: Any) -> GatedRunner:
        """Return a module that runs the gated network; layers gather where that usually pays, without measuring.

        Args:
            model: the network, in eval mode.
            example: not used.
        """
        runner = self._new_runner(model)
        runner.gather([layer.name for layer in self.layers if gathers_by_rule(layer)])
        return runner

    @torch.no_grad()
    def fast_runner(self, model: nn.Module, example: Any, seconds: float) -> GatedRunner:
        """Return the runner whose layers gather where that is measured to be faster than to mask the output.

        Args:
            model: the network, in eval mode.
            example: inputs like those in use.
            seconds: approximate duration of all measurements.
        """
        runner = self._new_runner(model)
        one = map_tensors(lambda tensor: tensor[:1], example)
        self.layer_speeds = measure_layers(runner, one, seconds)
        runner.gather([name for name, ratio in self.layer_speeds.items() if ratio.low > 1])
        return runner

    def _new_runner(self, model: nn.Module) -> GatedRunner:
        gates = [gate for gate in self.gates if isinstance(gate, ChannelGate)]
        counts = self.counts.tolist() if self.mode == "fixed" else [0] * len(self.layers)
        return GatedRunner(model, self.network, gates, self.layers, counts, self.thresholds.tolist())
