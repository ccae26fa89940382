"""The gate of a convolution: which of its output channels an input needs, and by how much each is scaled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SMALL = 0.01  # deviation of the weights at the start, where all gates are near 1


class ChannelGate(nn.Module):
    r"""Predicts from a convolution's input how much each of its output channels matters.

    .. math:: g = \operatorname{relu}(\Phi \, \bar x + \rho)

    with :math:`\bar x` the mean of each input channel over the image.

    Args:
        inputs: channels that the convolution reads.
        outputs: channels that it writes.
        seed: of the weights.

    Example:
        >>> ChannelGate(inputs=2, outputs=4)(torch.zeros(1, 2, 5, 5))
        tensor([[1., 1., 1., 1.]], grad_fn=<ReluBackward0>)

    Source: Gao et al., Dynamic Channel Pruning: Feature Boosting and Suppression, ICLR 2019, section 3.3.
    """

    def __init__(self, inputs: int, outputs: int, seed: int = 0) -> None:
        super().__init__()
        self.saliency = nn.Linear(inputs, outputs)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.saliency.weight.copy_(_SMALL * torch.randn(outputs, inputs, generator=generator))
            self.saliency.bias.fill_(1.0)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the gate of each output channel, ``(n, outputs)``, for inputs ``(n, inputs, height, width)``."""
        return self.from_means(inputs.mean((2, 3)))

    def from_means(self, means: Tensor) -> Tensor:
        """Return the gates for the means of the input channels, ``(n, inputs)``."""
        return F.relu(self.saliency(means))


def largest(gates: Tensor, count: int) -> Tensor:
    """Return a mask of the largest gates of each input, 1 where the channel is live.

    Args:
        gates: ``(n, channels)``.
        count: number of live channels.

    Example:
        >>> largest(torch.tensor([[0.1, 0.9, 0.0, 0.5]]), 2)
        tensor([[0., 1., 0., 1.]])
    """
    return torch.zeros_like(gates).scatter_(1, gates.topk(count, dim=1).indices, 1.0)


def above(gates: Tensor, threshold: float) -> Tensor:
    """Return a mask of the gates above a threshold, 1 where the channel is live; the largest gate always is.

    Args:
        gates: ``(n, channels)``.
        threshold: at least 0, so that a gate of 0 is not live.

    Example:
        >>> above(torch.tensor([[0.1, 0.9, 0.0, 0.5], [0.0, 0.2, 0.1, 0.0]]), 0.4)
        tensor([[0., 1., 0., 1.],
                [0., 1., 0., 0.]])
    """
    live = (gates > threshold).to(gates.dtype)
    return live.scatter_(1, gates.argmax(1, keepdim=True), 1.0)


def gated(output: Tensor, bias: Tensor | None, scale: Tensor, live: Tensor) -> Tensor:
    r"""Return a layer's output with each channel scaled by its gate, and 0 where it is not live.

    .. math:: y = \pi \, (g \, (h - \beta) + \beta)

    with h the output of the batch norm, or of the convolution where there is none, and :math:`\beta` its bias.

    Args:
        output: h, ``(n, channels, height, width)``.
        bias: beta, ``(channels,)``; None is 0.
        scale: the gates g, ``(n, channels)``.
        live: pi, 1 where a channel is live.
    """
    factor = live * scale
    shift = torch.zeros_like(factor) if bias is None else live * (1 - scale) * bias
    return torch.addcmul(shift[:, :, None, None], output, factor[:, :, None, None])
