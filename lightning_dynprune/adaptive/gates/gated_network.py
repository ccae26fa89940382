"""A network with gates: computes all channels, and sets those to zero that an input does not need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_dynprune.adaptive.gates.gate import ChannelGate, gated
from lightning_dynprune.adaptive.gates.gate_layout import GatedLayer

# Number of a layer and its gates, (n, channels) -> 1 where a channel is live.
Select = Callable[[int, Tensor], Tensor]


class GatedNetwork(nn.Module):
    """Runs a network with hooks that gate the outputs of its convolutions; for training and evaluation.

    Args:
        network: holds the convolutions by the names in ``layers``.
        gates: one a layer.
        layers: the gated convolutions.
        select: which channels are live.

    Attributes:
        values: gates of each layer in the last forward, ``(n, channels)``.
        live: which channels were live, likewise.
    """

    def __init__(
        self, network: nn.Module, gates: Sequence[nn.Module], layers: Sequence[GatedLayer], select: Select
    ) -> None:
        super().__init__()
        self.network, self.gates, self.layers, self.select = network, nn.ModuleList(gates), tuple(layers), select
        self.values: dict[int, Tensor] = {}
        self.live: dict[int, Tensor] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs of the network with its gates."""
        handles = []
        for number, layer in enumerate(self.layers):
            convolution = self.network.get_submodule(layer.name)
            last = self.network.get_submodule(layer.norm) if layer.norm else convolution
            handles.append(convolution.register_forward_pre_hook(self._read(number)))
            handles.append(last.register_forward_hook(self._write(number)))
        try:
            return self.network(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    def _read(self, number: int) -> Callable[[nn.Module, Any], None]:
        def hook(_module: nn.Module, inputs: Any) -> None:
            gate = self.gates[number]
            assert isinstance(gate, ChannelGate)
            self.values[number] = gate(inputs[0])
            self.live[number] = self.select(number, self.values[number].detach())

        return hook

    def _write(self, number: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            bias = getattr(module, "bias", None)
            return gated(output, bias, self.values[number], self.live[number])

        return hook
