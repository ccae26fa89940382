"""The private attributes of torch's convolutions that this room reads."""

from __future__ import annotations

from torch import nn


def padding_sizes(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[int]:
    """Return the padding of a convolution as ``torch.nn.functional.pad`` takes it, last dimension first.

    It is the only place where a convolution keeps the numbers for ``padding="same"``. If it goes, activations of
    convolutions cannot be calibrated (Wanda, reconstruction).
    """
    return list(module._reversed_padding_repeated_twice)
