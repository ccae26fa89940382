"""Run a gated network at inference, and measure which of its convolutions are faster with gathered weights."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.forward_cut import batch_of, finite_inputs, part_of
from lightning_dynprune.adaptive.gates.gate import ChannelGate
from lightning_dynprune.adaptive.gates.gate_layout import GatedLayer
from lightning_dynprune.adaptive.gates.gated_convolution import GatedConvolution
from lightning_dynprune.adaptive.labelled import device_of, last_position
from lightning_dynprune.base import call_model
from lightning_dynprune.deploy.timing import Ratio, time_interleaved

# Where a gathered convolution usually gains more than its gate costs.
_CHANNELS, _PIXELS = 128, 14 * 14


def gathers_by_rule(layer: GatedLayer) -> bool:
    """Return whether a convolution is large enough for gathered weights to be faster, as far as is known unmeasured."""
    return min(layer.inputs, layer.outputs) >= _CHANNELS and layer.pixels >= _PIXELS


class GatedRunner(nn.Module):
    """Runs a network with gated convolutions in their form for inference.

    One input reads and computes the live channels alone where a convolution gathers; a batch of several, whose inputs
    have different live channels, computes all channels. An input that is not finite takes the whole network.

    Args:
        whole: the whole network.
        network: the copy that was trained with gates, in eval mode; it is copied.
        gates: one a layer.
        layers: the gated convolutions.
        counts: number of live channels of each layer; 0: those above its threshold.
        thresholds: one a layer.

    Attributes:
        exits: 0 for each input of the last call that took the gated network, 1 for the whole one, int64 ``(n,)``.
    """

    exits: Tensor

    def __init__(
        self,
        whole: nn.Module,
        network: nn.Module,
        gates: Sequence[ChannelGate],
        layers: Sequence[GatedLayer],
        counts: Sequence[int],
        thresholds: Sequence[float],
    ) -> None:
        super().__init__()
        self.whole, self.network = whole, copy.deepcopy(network).eval().requires_grad_(False)
        self.convolutions: dict[str, GatedConvolution] = {}
        done: list[GatedConvolution] = []
        for number, layer in enumerate(layers):
            convolution = self.network.get_submodule(layer.name)
            assert isinstance(convolution, nn.Conv2d)
            norm = self.network.get_submodule(layer.norm) if layer.norm else None
            assert norm is None or isinstance(norm, nn.BatchNorm2d)
            source = done[layer.source] if layer.source >= 0 else None
            new = GatedConvolution(convolution, norm, gates[number], counts[number], thresholds[number], source)
            done.append(new)
            self.convolutions[layer.name] = new
        for layer, new in zip(layers, done, strict=True):
            self.network.set_submodule(layer.name, new)
            if layer.norm:
                self.network.set_submodule(layer.norm, nn.Identity())
        self.exits = torch.zeros(0, dtype=torch.int64)

    def gather(self, names: Collection[str]) -> None:
        """Let some of the convolutions compute one input with gathered weights, and the others with masked outputs.

        Args:
            names: of the convolutions that gather.
        """
        for name, convolution in self.convolutions.items():
            convolution.gathers = name in names
            convolution.tells = False
        for convolution in self.convolutions.values():
            if convolution.gathers and convolution.source is not None:
                convolution.source.tells = True

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the class scores of each input, ``(n, classes)``."""
        inputs = kwargs or args
        is_finite = finite_inputs(inputs).isfinite()
        self.exits = (~is_finite).long()
        if not batch_of(inputs) or not is_finite.any():
            whole: Tensor = last_position(call_model(self.whole, inputs))
            return whole
        if is_finite.all():
            scores: Tensor = last_position(call_model(self.network, inputs))
            return scores
        found: list[Tensor] = []
        for network, chosen in ((self.network, is_finite), (self.whole, ~is_finite)):
            found.append(last_position(call_model(network, part_of(inputs, chosen))))
        scores = found[0].new_zeros(len(is_finite), found[0].shape[1])
        scores[is_finite], scores[~is_finite] = found[0], found[1].to(scores.dtype)
        return scores


def measure_layers(runner: GatedRunner, one: Any, seconds: float) -> dict[str, Ratio]:
    """Return for each gated convolution how many times as fast it is with gathered weights as with masked outputs.

    Each is measured alone on what it reads for one input, with its gate, and with input channels gathered where the
    layer before it is gated.

    Args:
        runner: the gated network; which layers gather is changed.
        one: one input.
        seconds: approximate duration of all measurements.
    """
    runner.gather(runner.convolutions)
    reads: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, inputs: Any) -> None:
            reads[name] = inputs[0].clone(memory_format=torch.preserve_format)

        return hook

    handles = [each.register_forward_pre_hook(keep(name)) for name, each in runner.convolutions.items()]
    try:
        call_model(runner.network, one)
    finally:
        for handle in handles:
            handle.remove()
    ratios = {}
    for name, convolution in runner.convolutions.items():
        calls = {
            "gathered": _call(convolution, reads[name], gathers=True),
            "masked": _call(convolution, reads[name], gathers=False),
        }
        part = max(1e-3, seconds / len(runner.convolutions))
        found = time_interleaved(calls, seconds=part, device=device_of(runner.network))
        ratios[name] = found.ratio("gathered", "masked")
        convolution.gathers = True
        convolution(reads[name])  # so that the next one knows which of its inputs are live
    return ratios


def _call(convolution: GatedConvolution, inputs: Tensor, gathers: bool) -> Any:
    def run() -> None:
        convolution.gathers = gathers
        live = convolution.live
        convolution(inputs)
        convolution.live = live if live is not None else convolution.live

    return run
