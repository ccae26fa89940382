"""The module that activation thresholds add to a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.activations.input_statistics import QUANTILES
from lightning_dynprune.adaptive.activations.layer_densities import LEVELS, share_out, thresholds_at
from lightning_dynprune.adaptive.activations.layer_timing import LayerSpeed, faster_dense, fastest_layers
from lightning_dynprune.adaptive.activations.linear_layers import LinearLayer
from lightning_dynprune.adaptive.activations.relu_swap import swap_back, swap_to_relu
from lightning_dynprune.adaptive.activations.running import SkippingRunner, all_skipping
from lightning_dynprune.adaptive.activations.thresholded_forward import of_samples, thresholded
from lightning_dynprune.adaptive.base import AdaptiveModule, Outcome
from lightning_dynprune.adaptive.forward_cut import batch_of
from lightning_dynprune.adaptive.labelled import last_position
from lightning_dynprune.base import call_model, check_real, map_tensors

# Shares of the natural density at which the densities of all layers are measured together: a layer has more zeros, or
# fewer, once the layers before it skip inputs.
SHARES = (1 / LEVELS, 0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


class ActivationThresholds(AdaptiveModule):
    """A threshold for the inputs of each layer, and the activations that were replaced by ReLU.

    Args:
        layers: the layers that skip inputs.
        macs: multiply-adds of the dense network for one sample.
        precision: "float32", or "int8" for weight rows of 8 bits.
        swapped: names of the activations that a ReLU replaces.

    Attributes:
        thresholds: one a layer, float32; inputs of a magnitude up to it are skipped. 0 skips zeros only.
        densities: share of live inputs of each layer on the held-out inputs, float64.
        natural: share of inputs that are not zero, float64.
        quantiles: magnitudes of each layer's inputs on the held-out inputs, float64 ``(layers, 257)``.
        errors: relative output error at 1/32, 2/32, ..., 1 of the natural density, float64 ``(layers, 32)``.
        measured: densities of the layers at each of ``SHARES`` of the natural density, float64 ``(11, layers)``.

    Example:
        >>> module = ActivationThresholds([LinearLayer("0", 4, 8, 32)], macs=64)
        >>> module.path_names, module.thresholds
        (('thresholds',), tensor([0.]))
    """

    method: ClassVar[str] = "activation_threshold"
    thresholds: Tensor
    densities: Tensor
    natural: Tensor
    quantiles: Tensor
    errors: Tensor
    measured: Tensor

    def __init__(
        self, layers: Sequence[LinearLayer], macs: int, precision: str = "float32", swapped: Sequence[str] = ()
    ) -> None:
        named = [[layer.name, layer.inputs, layer.outputs, layer.macs] for layer in layers]
        super().__init__({"layers": named, "macs": macs, "precision": precision, "swapped": list(swapped)})
        self.layers, self.macs, self.precision, self.swapped = tuple(layers), macs, precision, tuple(swapped)
        count = len(self.layers)
        self.register_buffer("thresholds", torch.zeros(count))
        self.register_buffer("densities", torch.ones(count, dtype=torch.float64))
        self.register_buffer("natural", torch.ones(count, dtype=torch.float64))
        self.register_buffer("quantiles", torch.zeros(count, QUANTILES + 1, dtype=torch.float64))
        self.register_buffer("errors", torch.zeros(count, LEVELS, dtype=torch.float64))
        self.register_buffer("measured", torch.ones(len(SHARES), count, dtype=torch.float64))
        self.speeds: Mapping[str, LayerSpeed] = {}
        self._originals: dict[str, nn.Module] = {}

    @property
    def path_names(self) -> tuple[str, ...]:
        """The one way through the network."""
        return ("thresholds",)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers that skip inputs."""
        return tuple(layer.name for layer in self.layers)

    @property
    def by_layer(self) -> dict[str, float]:
        """The threshold of each layer, by name."""
        return dict(zip(self.layer_names, self.thresholds.tolist(), strict=True))

    @property
    def summary(self) -> str:
        """The density and the compute that the thresholds give on the held-out inputs."""
        swaps = f", {len(self.swapped)} activations replaced by ReLU" if self.swapped else ""
        if not self.layers:
            return f"no layer has a threshold yet{swaps}"
        return (
            f"{len(self.layers)} layers with thresholds; on the held-out inputs density {self.density:.3f} "
            f"({self._mean(self.natural):.3f} by zeros alone), {self.compute:.3f} of the multiply-adds{swaps}"
        )

    @property
    def density(self) -> float:
        """Share of weight rows that are read on the held-out inputs, the layers weighted by their multiply-adds."""
        return self._mean(self.densities)

    @property
    def compute(self) -> float:
        """Mean multiply-adds on the held-out inputs, as a share of the dense network's."""
        return 1 - (1 - self.density) * self._skippable

    @property
    def reachable(self) -> tuple[float, float]:
        """Lowest density that can be set, and that of zeros alone."""
        return self._mean(self.measured[0]), self._mean(self.measured[-1])

    def set_density(self, density: float) -> None:
        """Set thresholds for a share of weight rows that are read, or fewer where zeros alone leave fewer.

        Args:
            density: in (0, 1], the layers weighted by their multiply-adds.

        Raises:
            ValueError: the density is out of range or out of reach; the message says what is reachable.
        """
        density = check_density("density", density)
        lowest = self.reachable[0]
        if density < lowest:
            raise ValueError(f"density={density:g} is out of reach; give at least {lowest:.4f}")
        reached = [self._mean(densities) for densities in self.measured]
        self.set_share(_interpolated(density, reached, SHARES))

    def set_share(self, share: float) -> None:
        """Set thresholds for a share of the inputs that are not zero, as they are while no other layer skips any.

        Args:
            share: in [1/32, 1].
        """
        work = [float(layer.macs) for layer in self.layers]
        errors, natural = self.errors.cpu(), self.natural.cpu()
        wanted = share_out(
            errors, natural, work, share * sum(n * each for n, each in zip(natural.tolist(), work, strict=True))
        )
        self.thresholds = thresholds_at(self.quantiles.cpu(), natural, wanted).to(self.thresholds.device)
        columns = self.measured.T.tolist()
        reached = [_interpolated(share, SHARES, column) for column in columns]
        self.densities = torch.tensor(reached, dtype=torch.float64, device=self.densities.device)

    def budget(self, share: float) -> None:
        """Set thresholds for a mean share of the dense multiply-adds, to 2 % on the held-out inputs.

        Args:
            share: in (0, 1].

        Raises:
            ValueError: the share is out of range or out of reach; the message says what is reachable.
        """
        share = check_density("budget", share)
        lowest = 1 - (1 - self.reachable[0]) * self._skippable
        if share < lowest:
            raise ValueError(
                f"budget={share:g} is out of reach: the layers that skip inputs take {self._skippable:.4f} of the "
                f"multiply-adds; give at least {lowest:.4f}"
            )
        self.set_density(max(1 - (1 - share) / self._skippable, self.reachable[0]))

    @torch.no_grad()
    def outcome(self, model: nn.Module, inputs: Any) -> Outcome:
        """Return scores and compute of inputs, by a dense forward and one with inputs set to zero."""
        dense = last_position(call_model(model, inputs))
        with thresholded(model, self.by_layer, self.precision) as rows:
            scores = last_position(call_model(model, inputs))
        count = batch_of(inputs)
        densities = {name: of_samples(each, count) for name, each in rows.items()}
        compute = torch.ones(count, dtype=torch.float64)
        for layer in self.layers:
            compute -= layer.macs / self.macs * (1 - densities[layer.name].cpu())
        return Outcome(scores, torch.zeros(count, dtype=torch.int64, device=dense.device), compute, dense, densities)

    def runner(self, model: nn.Module, example: Any) -> SkippingRunner:
        """Return a module whose layers read the rows of live inputs only, with the weights that the model has now.

        Args:
            model: the network, in eval mode.
            example: inputs of at least one sample, on which the runner is checked.
        """
        return SkippingRunner.checked(
            model, all_skipping(model, self.by_layer, self.precision), example, self.by_layer, self.precision
        )

    def fast_runner(self, model: nn.Module, example: Any, seconds: float) -> SkippingRunner:
        """Return a module in which each layer has the form that is measured to be fastest for single samples.

        Layers that do not skip inputs use all of them. The measurements are in ``speeds``.

        Args:
            model: the network in its fastest dense form, in eval mode.
            example: many inputs like those in use.
            seconds: approximate duration.
        """
        forms, self.speeds = fastest_layers(model, self.by_layer, self.precision, example, seconds)
        few = map_tensors(lambda tensor: tensor[:3], example)
        return SkippingRunner(model, forms, self.speeds).flattened(few)

    def dense_rival(self, dense: nn.Module, example: Any, seconds: float) -> nn.Module:
        """Return the dense network, or with ``precision="int8"`` its form in torch's int8 where that is faster."""
        return dense if self.precision == "float32" else faster_dense(dense, example, seconds)

    @contextmanager
    def joint_step(self, model: nn.Module, inputs: Any, labels: Tensor) -> Iterator[Callable[[], Tensor]]:
        """Yield a function that returns a loss of 0: the model trains with its ReLUs on its own loss alone."""
        yield lambda: torch.zeros((), device=self.thresholds.device)

    def added_to(self, model: nn.Module) -> None:
        """Replace the activations by ReLU."""
        self._originals = swap_to_relu(model, self.swapped)

    def removed_from(self, model: nn.Module) -> None:
        """Put the activations back that ReLUs replaced."""
        swap_back(model, self._originals)
        self._originals = {}

    @property
    def _skippable(self) -> float:
        return sum(layer.macs for layer in self.layers) / self.macs

    def _mean(self, shares: Tensor) -> float:
        work = torch.tensor([float(layer.macs) for layer in self.layers], dtype=torch.float64)
        return float((shares.cpu() * work).sum() / work.sum())


def _interpolated(value: float, places: Sequence[float], values: Sequence[float]) -> float:
    """Return the value at a place, linear between places, which rise; the last one above them."""
    for place, above, low, high in zip(places, places[1:], values, values[1:], strict=False):
        if value < above:
            return low + (high - low) * max(0.0, value - place) / (above - place)
    return values[-1]


def check_density(setting: str, share: Any) -> float:
    """Return a density or budget as float if it is a number in (0, 1].

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    number = check_real(setting, share, low=0, high=1)
    if number == 0:
        raise ValueError(f"{setting}=0 is not accepted; give a share in (0, 1]")
    return number
