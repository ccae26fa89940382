"""Channel gates: each input computes the channels that it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import METHODS, AdaptiveMethod, Batches
from lightning_dynprune.adaptive.cascade import check_budget
from lightning_dynprune.adaptive.distilled_fit import CopyFit, fit_copies, plain_copy
from lightning_dynprune.adaptive.forward_cut import check_stateless
from lightning_dynprune.adaptive.gates.gate import ChannelGate, largest
from lightning_dynprune.adaptive.gates.gate_budget import counts_for
from lightning_dynprune.adaptive.gates.gate_layout import GatedLayer, find_gated_layers
from lightning_dynprune.adaptive.gates.gate_module import MODES, ChannelGates
from lightning_dynprune.adaptive.gates.gated_network import GatedNetwork
from lightning_dynprune.adaptive.labelled import device_of, first_inputs
from lightning_dynprune.base import check_count, check_real, check_whole, is_number
from lightning_dynprune.distributed import Ranks

# All channels are live up to the first share of the training, and the density falls linearly up to the second.
_DENSE, _LOWERED = 0.2, 0.6


@METHODS.register("channel_gate")
@dataclass
class GateChannels(AdaptiveMethod):
    r"""Gates that predict from a convolution's input which of its output channels an input needs.

    .. math:: y = \pi \, (g \, (h - \beta) + \beta) \qquad g = \operatorname{relu}(\Phi \, \bar x + \rho)

    with h the output of the batch norm and :math:`\beta` its bias, and :math:`\pi` 1 for the channels that are live.
    Where the scale of the batch norm is 1, this is the published form. The gates are trained with a copy of the
    network, whose zeros stay zeros; the network itself is not changed.

    Args:
        layers: qualified names of convolutions, or "auto" for all with at least 16 output channels.
        density: share of the channels that are live.
        mode: "fixed": the largest gates are live, of every input as many; "mean": gates above thresholds are live, so
            that the density is a mean over inputs.
        budget: mean multiply-adds as a share of the dense network's; overrides ``density``.
        l1: weight of the mean of the live gates in the loss.
        distill: weight of the network's own outputs among the goals of the copy, the rest is that of the labels.
        epochs: passes over the training inputs: a fifth with all channels live, then with fewer and fewer.
        lr: learning rate of the copy and its gates.
        seed: of the gates' weights, of dropout and of the order in which a data loader draws.

    Raises:
        ValueError: a setting that cannot work.
        TypeError: a setting of the wrong type.

    Example:
        >>> GateChannels(density=0.5).layers
        'auto'

    Source: Gao et al., Dynamic Channel Pruning: Feature Boosting and Suppression, ICLR 2019.
    """

    label: ClassVar[str] = "channel_gate"

    layers: Sequence[str] | str = "auto"
    density: float = 0.5
    mode: str = "fixed"
    budget: float | None = None
    l1: float = 1e-4
    distill: float = 0.5
    epochs: int = 10
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        _check_layers(self.layers)
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} is unknown; known: {', '.join(MODES)}")
        self.density = check_real("density", self.density, low=0, high=1)
        if self.density == 0:
            raise ValueError("density=0 is not accepted; give a share of the channels in (0, 1]")
        self.budget = None if self.budget is None else check_budget(self.budget)
        self.l1 = check_real("l1", self.l1, low=0)
        self.distill = check_real("distill", self.distill, low=0, high=1)
        self.lr = check_real("lr", self.lr, low=1e-12)
        self.epochs = check_count("epochs", self.epochs)
        self.seed = check_whole("seed", self.seed)

    @torch.no_grad()
    def check(self, model: nn.Module, example: Any) -> None:
        """Raise if no convolution can be gated, or the budget is out of reach."""
        check_stateless(model, example)
        layers = find_gated_layers(plain_copy(model), example, self.layers)
        if self.budget is not None:
            counts_for(layers, self.budget)

    def new_gates(self, model: nn.Module, example: Any) -> ChannelGates:
        """Return a copy of the network with untrained gates, all channels live.

        Args:
            model: the network, in eval mode.
            example: inputs of at least one sample.
        """
        network = plain_copy(model)
        layers = find_gated_layers(network, example, self.layers)
        gates = [ChannelGate(layer.inputs, layer.outputs, self.seed + number) for number, layer in enumerate(layers)]
        for parameter in network.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return ChannelGates(network, gates, layers, self.mode).to(device_of(model))

    def adapt(self, model: nn.Module, train: Batches, held_out: Batches, ranks: Ranks) -> ChannelGates:
        """Return gates that are trained with a copy of the network, and the live channels that the settings ask for."""
        found = self.new_gates(model, first_inputs(train, device_of(model), "train"))
        network = found.gated_network()
        counts = counts_for(found.layers, self.budget) if self.budget is not None else None
        final = density_of(found.layers, counts) if counts is not None else self.density
        present = {"density": 1.0}

        def before_step(done: float) -> None:
            present["density"] = scheduled_density(final, done)

        def select(number: int, values: Tensor) -> Tensor:
            return live_in_training(values, present["density"], self.mode)

        network.select = select
        fit_copies([network], model, train, self._copy_fit(before_step), ranks)
        found.calibrate(held_out, ranks)
        if self.budget is None:
            found.set_density(self.density)
        else:
            found.budget(self.budget)
        return found.to(device_of(model))

    @classmethod
    def build(cls, description: Mapping[str, Any], state: Mapping[str, Tensor], model: nn.Module) -> ChannelGates:
        """Return the gates that a state dict describes."""
        try:
            layers = [GatedLayer(**layer) for layer in description["layers"]]
            network, gates = plain_copy(model), []
            for number, layer in enumerate(layers):
                # Tensors of the state, and not numbers in it, say how much memory is needed.
                outputs, inputs = state[f"gates.{number}.saliency.weight"].shape
                validate_layer(layer, number, network, inputs, outputs)
                gates.append(ChannelGate(inputs, outputs))
            found = ChannelGates(network, gates, layers, description["mode"])
            found.load_state_dict(dict(state))
            widest = torch.tensor([layer.outputs for layer in layers])
            if not ((found.counts >= 1) & (found.counts <= widest)).all() or description["mode"] not in MODES:
                raise ValueError(f"counts {found.counts.tolist()} of channels, mode {description['mode']!r}")
        except (KeyError, IndexError, TypeError, RuntimeError, AttributeError, ValueError) as error:
            raise ValueError(f"the state of the gates is damaged, or of another network: {error}") from error
        return found

    def _copy_fit(self, before_step: Callable[[float], None]) -> CopyFit:
        def penalty(network: nn.Module) -> Tensor:
            assert isinstance(network, GatedNetwork)
            means = [(network.values[n] * network.live[n]).mean() for n in network.values]
            return self.l1 * torch.stack(means).sum()

        return CopyFit(
            self.epochs,
            self.lr,
            self.distill,
            self.seed,
            before_step=before_step,
            extra_loss=penalty if self.l1 else None,
            keep_zeros=True,
        )


def validate_layer(layer: GatedLayer, number: int, network: nn.Module, inputs: int, outputs: int) -> None:
    """Raise unless a gated layer of a state dict fits a network and its own gate.

    Args:
        layer: as the state dict describes it.
        number: of the layer.
        network: holds the convolution.
        inputs: channels that the gate reads.
        outputs: channels that it gates.

    Raises:
        ValueError: naming what does not fit.
    """
    convolution = network.get_submodule(layer.name)
    norm = network.get_submodule(layer.norm) if layer.norm else None
    if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d | None):
        raise ValueError(f"{layer.name!r} is no convolution, or {layer.norm!r} no batch norm")
    channels = (convolution.in_channels, convolution.out_channels)
    if not channels == (layer.inputs, layer.outputs) == (inputs, outputs):
        raise ValueError(f"{layer.name!r} has {channels} channels, its gate {(inputs, outputs)}")
    if not -1 <= layer.source < number or not all(map(is_number, (layer.share, layer.gate_share))):
        raise ValueError(f"{layer.name!r} reads layer {layer.source!r} and takes {layer.share!r} of the multiply-adds")


def scheduled_density(final: float, done: float) -> float:
    """Return the share of live channels in training: 1 at first, then linearly lower, then the final one.

    Args:
        final: the share at the end.
        done: share of the training that is done.

    Example:
        >>> [scheduled_density(0.5, done) for done in (0.0, 0.2, 0.4, 0.6, 1.0)]
        [1.0, 1.0, 0.75, 0.5, 0.5]
    """
    return 1.0 - (1.0 - final) * min(1.0, max(0.0, (done - _DENSE) / (_LOWERED - _DENSE)))


def live_in_training(values: Tensor, density: float, mode: str) -> Tensor:
    """Return which channels are live in a step, 1 or 0, ``(n, channels)``.

    With mode "mean" the threshold is the gate of that rank among all inputs of the batch.

    Args:
        values: gates of a layer.
        density: share of the channels.
        mode: see :class:`GateChannels`.
    """
    if mode == "fixed":
        return largest(values, math.ceil(density * values.shape[1] - 1e-9))
    rank = min(values.numel(), math.ceil(density * values.numel() - 1e-9))
    threshold = values.flatten().kthvalue(values.numel() - rank + 1).values
    return (values >= threshold).to(values.dtype)


def density_of(layers: Sequence[GatedLayer], counts: Sequence[int]) -> float:
    """Return the share of the channels of all gated layers that are live."""
    return sum(counts) / sum(layer.outputs for layer in layers)


def _check_layers(layers: Sequence[str] | str) -> None:
    if isinstance(layers, str) and layers != "auto":
        raise ValueError(f"layers={layers!r} is not accepted; give a list of names of convolutions, or 'auto'")
    if not isinstance(layers, str):
        names = list(layers)
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise ValueError(f"layers={names!r} is not accepted; give different names of convolutions, or 'auto'")
