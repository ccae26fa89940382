"""The tuples of layer types cover all layers that torch derives from its private base classes."""

from __future__ import annotations

import pytest
from torch import nn

from lightning_dynprune.base import BATCH_NORMS, CONVOLUTIONS, INSTANCE_NORMS


@pytest.mark.parametrize(
    ("types", "example"),
    [(CONVOLUTIONS, nn.Conv2d), (BATCH_NORMS, nn.BatchNorm2d), (INSTANCE_NORMS, nn.InstanceNorm2d)],
)
def test_every_public_layer_of_the_same_base_is_listed(types, example):
    base = example.__mro__[1]
    public = {layer for name in dir(nn) if isinstance(layer := getattr(nn, name), type) and issubclass(layer, base)}
    assert {layer for layer in public if not layer.__name__.startswith("Lazy")} == set(types)
