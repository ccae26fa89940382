"""Leave out inputs and outputs whose weights are all zero."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_dynprune.deploy.kernels.base import KERNELS, Kernel, UnsuitableLayerError


@KERNELS.register("slim")
class Slim(Kernel):
    """A smaller Linear over the inputs and outputs that have nonzero weights.

    Inputs are gathered; an output without nonzero weights equals its bias. The layer's outer sizes stay the same. Where
    adjacent layers may change too, slimming the model saves more.

    Args:
        layer: the layer to replace.

    Raises:
        UnsuitableLayerError: no input and no output is entirely zero.

    Example:
        >>> import torch
        >>> layer = nn.Linear(8, 4)
        >>> _ = layer.weight.data[:, 2:].zero_(), layer.weight.data[1].zero_()
        >>> kernel, x = Slim(layer), torch.randn(3, 8)
        >>> torch.allclose(kernel(x), layer(x), atol=1e-6), kernel.small.shape
        (True, torch.Size([3, 2]))
    """

    small: Tensor
    inputs: Tensor | None
    outputs: Tensor | None
    small_bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        inputs, outputs = _used(layer)
        small = layer.weight.detach()
        if inputs is not None:
            small = small.index_select(1, inputs)
        if outputs is not None:
            small = small.index_select(0, outputs)
        self.register_buffer("small", small)
        self.register_buffer("inputs", inputs)
        self.register_buffer("outputs", outputs)
        small_bias = None if outputs is None or self.bias is None else self.bias.detach().index_select(0, outputs)
        self.register_buffer("small_bias", small_bias)

    @classmethod
    def settings(cls, layer: nn.Linear) -> list[dict[str, int]]:
        """Return one empty set of settings.

        Raises:
            UnsuitableLayerError: no input and no output is entirely zero.
        """
        _used(layer)
        return [{}]

    @property
    def label(self) -> str:
        """Name of the kernel."""
        return "slim"

    def compute(self, rows: Tensor) -> Tensor:
        """Return the outputs of all rows."""
        if self.inputs is not None:
            rows = rows.index_select(1, self.inputs)
        if self.outputs is None:
            return nn.functional.linear(rows, self.small, self.bias)
        computed = nn.functional.linear(rows, self.small, self.small_bias)
        wide = rows.new_zeros(len(rows), self.out_features)
        if self.bias is not None:
            wide += self.bias
        return wide.index_copy_(1, self.outputs, computed)

    def stored_weight(self) -> Tensor:
        """Return the layer's weight."""
        weight = self.small
        if self.inputs is not None:
            weight = weight.new_zeros(len(weight), self.in_features).index_copy_(1, self.inputs, weight)
        if self.outputs is not None:
            weight = weight.new_zeros(self.out_features, self.in_features).index_copy_(0, self.outputs, weight)
        return weight.clone()


def _used(layer: nn.Linear) -> tuple[Tensor | None, Tensor | None]:
    """Return the inputs and the outputs with a nonzero weight; None where that is all of them."""
    kept = layer.weight.detach() != 0
    inputs, outputs = kept.any(0), kept.any(1)
    if inputs.all() and outputs.all():
        raise UnsuitableLayerError("no input and no output is wholly zero")
    return (
        None if inputs.all() else inputs.nonzero()[:, 0],
        None if outputs.all() else outputs.nonzero()[:, 0],
    )
