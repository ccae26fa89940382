"""The private attributes of torch and Lightning Fabric that unwrapping reads are there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.targets.compat import wrapped_module


def test_a_compiled_module_keeps_the_module_it_was_made_from():
    net = nn.Linear(2, 2)
    assert wrapped_module(torch.compile(net)) is net
    assert wrapped_module(net) is None


def test_a_module_of_fabric_keeps_the_module_it_was_made_from():
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    net = nn.Linear(2, 2)
    assert wrapped_module(fabric.setup_module(net)) is net
