"""The smallest multiple of channels that a device runs fast is found, by a clock that stands in for the device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lightning_dynprune.coupling import CouplingError
from lightning_dynprune.deploy import measure_width_multiples
from tests.deploy.fake_clock import modules_take


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 16))


def fast_at_multiples_of(size: int):
    """Return the cost of a device that takes twice the time for widths that a number does not divide."""

    def cost(module: nn.Module, _rows: int) -> float:
        if not isinstance(module, nn.Linear):
            return 0.0
        is_odd = any(side % size for side in module.weight.shape)
        return 1e-5 * module.weight.numel() * (1 + is_odd)

    return cost


@pytest.mark.parametrize("size", [1, 4, 16])
def test_the_smallest_multiple_that_the_device_is_fast_at_is_found(size):
    with modules_take(fast_at_multiples_of(size)):
        found = measure_width_multiples(network(), torch.ones(3, 64), seconds=0.01)
    assert found.multiple == size
    assert found.costs[16] == 1.0
    assert max(found.costs[m] for m in (1, 2, 4, 8, 16) if m >= size) < 1.03
    assert all(found.costs[m] > 1.03 for m in (1, 2, 4, 8) if m < size)


def test_the_model_is_the_same_afterwards():
    net = network().train()
    before, mode = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    with modules_take(fast_at_multiples_of(1)):
        measure_width_multiples(net, torch.ones(3, 64), seconds=0.01)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == mode
    assert (net[0].out_features, net[2].in_features) == (128, 128)


def test_a_group_smaller_than_the_multiple_keeps_its_width():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with modules_take(fast_at_multiples_of(1)):
        assert measure_width_multiples(net, torch.ones(1, 4), seconds=0.01).multiple in (1, 2, 4, 8, 16)


def test_a_model_without_channels_to_remove_and_a_share_of_nothing_are_refused():
    with pytest.raises(CouplingError, match="no channels of Linear can be removed, so none are rounded"):
        measure_width_multiples(nn.Linear(3, 2), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"share=0 is not accepted; give a share of the channels in \(0, 1\]"):
        measure_width_multiples(network(), torch.ones(1, 64), share=0)
