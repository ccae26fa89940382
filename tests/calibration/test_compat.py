"""The private attribute of convolutions that the room reads is there and holds the numbers that padding uses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_dynprune.calibration.compat import padding_sizes


@pytest.mark.parametrize(("padding", "sizes"), [((1, 2), [2, 2, 1, 1]), ("same", [1, 1, 1, 2]), ("valid", [0] * 4)])
def test_a_convolution_knows_its_padding_in_numbers(padding, sizes):
    conv = nn.Conv2d(1, 1, kernel_size=(4, 3), padding=padding)
    assert padding_sizes(conv) == sizes
    inputs = torch.rand(1, 1, 6, 5)
    by_hand = F.conv2d(F.pad(inputs, padding_sizes(conv)), conv.weight, conv.bias)
    torch.testing.assert_close(conv(inputs), by_hand)
