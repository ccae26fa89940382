"""A gated convolution for inference: gathers the weights of live channels for one input, or masks its output."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lightning_dynprune.adaptive.gates.gate import ChannelGate, above, largest


class GatedConvolution(nn.Module):
    """A convolution with its batch norm folded in, and its gate.

    For one input with ``gathers`` it reads the live input channels and computes the live output channels alone. Else it
    computes all channels and sets those to zero that are not live.

    Args:
        convolution: of the network.
        norm: the batch norm that alone reads it, or None.
        gate: of the convolution.
        count: number of live channels; 0: those above ``threshold``.
        threshold: see ``count``.
        source: the gated convolution whose output channels are the input channels, or None.

    Attributes:
        gathers: whether one input is computed with gathered weights.
        tells: whether a convolution that gathers reads the output.
        live: live channels of the last input, int64; None after a batch of several, or if neither is so.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        gate: ChannelGate,
        count: int,
        threshold: float,
        source: GatedConvolution | None = None,
    ) -> None:
        super().__init__()
        folded = convolution if norm is None else fuse_conv_bn_eval(convolution, norm)
        bias = convolution.bias if norm is None else norm.bias
        channels = convolution.out_channels
        weight = folded.weight.detach()
        self.register_buffer("weight", weight.clone(memory_format=torch.channels_last))
        self.register_buffer("rows", weight.clone(memory_format=torch.contiguous_format))
        # What gates scale is the output without the bias, which live channels get back whole.
        self.register_buffer("beta", torch.zeros(channels) if bias is None else bias.detach().clone())
        whole = torch.zeros(channels) if folded.bias is None else folded.bias.detach()
        self.register_buffer("offset", whole - self.beta)
        self.gate, self.count, self.threshold = gate, count, threshold
        self.settings: Any = (convolution.stride, convolution.padding, convolution.dilation)
        self._source = [] if source is None else [source]  # not registered, it is a layer of the network
        self.gathers = self.tells = False
        self.live: Tensor | None = None

    weight: Tensor
    rows: Tensor
    beta: Tensor
    offset: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output of the convolution and its batch norm, gated, ``(n, channels, height, width)``."""
        scale = self.gate.from_means(inputs.mean((2, 3)))
        if self.gathers and len(inputs) == 1:
            return self._gathered(inputs, scale)
        live = largest(scale, self.count) if self.count else above(scale, self.threshold)
        self.live = live[0].nonzero()[:, 0] if self.tells and len(inputs) == 1 else None
        factor, shift = live * scale, live * (scale * self.offset + self.beta)
        output = F.conv2d(inputs, self.weight, None, *self.settings)
        return torch.addcmul(shift[:, :, None, None], output, factor[:, :, None, None])

    @property
    def source(self) -> GatedConvolution | None:
        """The gated convolution whose output channels are the input channels."""
        return self._source[0] if self._source else None

    def _gathered(self, inputs: Tensor, scale: Tensor) -> Tensor:
        if self.count:
            live = scale[0].topk(self.count, sorted=False).indices
        else:
            live = above(scale, self.threshold)[0].nonzero()[:, 0]
        self.live, rows = live, self.rows.index_select(0, live)
        read = None if self.source is None else self.source.live
        if read is not None:
            rows, inputs = rows.index_select(1, read), inputs.index_select(1, read)
        scale = scale[0].index_select(0, live)
        shift = scale * self.offset.index_select(0, live) + self.beta.index_select(0, live)
        output = F.conv2d(inputs, rows, None, *self.settings)
        output = torch.addcmul(shift[:, None, None], output, scale[:, None, None])
        whole = output.new_zeros(1, len(self.beta), *output.shape[2:])
        return whole.index_copy_(1, live, output)
