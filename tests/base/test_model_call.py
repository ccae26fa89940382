"""An example input becomes the arguments of a call."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from torch import nn

from lightning_dynprune.base import call_model


class Recorder(nn.Module):
    def forward(self, *args, **kwargs):
        return args, kwargs


@pytest.mark.parametrize(
    ("example_input", "args", "kwargs"),
    [
        (1, (1,), {}),
        ((1, 2), (1, 2), {}),
        ([1, 2], (1, 2), {}),
        ({"x": 1}, (), {"x": 1}),
        (OrderedDict(x=1), (), {"x": 1}),
    ],
)
def test_an_example_input_becomes_arguments(example_input, args, kwargs):
    assert call_model(Recorder(), example_input) == (args, kwargs)
