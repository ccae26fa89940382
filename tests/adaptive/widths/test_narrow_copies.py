"""Narrow copies hold the most important channels of the network, and leave the network alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lightning_dynprune.adaptive.widths.narrow_copies import fitted_to, narrow_copies
from tests.adaptive.networks import Skipping, images


def test_the_channels_of_largest_weights_stay_in_their_order():
    net = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [4.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
        net[2].weight.copy_(torch.tensor([[1.0, 4.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]]))
    half, most = narrow_copies(net.eval(), torch.ones(1, 2), [0.5, 0.75])
    assert half[0].weight.tolist() == [[4.0, 0.0], [3.0, 0.0]]
    assert half[2].weight.tolist() == [[4.0, 3.0], [0.0, 0.0]]
    assert most[0].weight.tolist() == [[4.0, 0.0], [2.0, 0.0], [3.0, 0.0]]
    assert net[0].weight.shape == (4, 2)


def test_channels_of_zero_weights_go_first_so_that_masks_leave_the_outputs():
    torch.manual_seed(0)
    net = Skipping().eval()
    with torch.no_grad():
        net.last.weight[::2] = 0
        net.last.bias[::2] = 0
    x = images(4)[0]
    (narrow,) = narrow_copies(net, x, [0.5])
    assert narrow.last.weight.shape[0] == 8
    assert torch.equal(narrow.last.bias, net.last.bias[1::2])


def test_a_copy_trains_all_its_parameters_with_statistics_of_its_own():
    net = Skipping().eval().requires_grad_(False)
    before, x = copy.deepcopy(net.state_dict()), images(6)[0]
    (narrow,) = narrow_copies(net, x, [0.5])
    assert all(parameter.requires_grad for parameter in narrow.parameters())
    narrow.train()(x)
    assert not torch.equal(narrow.stem[1].running_mean, torch.zeros(2))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_one_channel_stays_of_each_group():
    (narrow,) = narrow_copies(Skipping().eval(), images(2)[0], [0.01])
    assert [narrow.stem[0].out_channels, narrow.left.out_channels, narrow.last.out_channels] == [1, 1, 1]


def test_a_network_without_inner_channels_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"no channels of Linear can be removed.*they are the model's outputs"):
        narrow_copies(nn.Linear(3, 2).eval(), torch.ones(1, 3), [0.5])


def test_the_shapes_of_a_saved_copy_are_found_again():
    net, x = Skipping().eval(), images(3)[0]
    (narrow,) = narrow_copies(net, x, [0.5])
    again = fitted_to(net, narrow.state_dict())
    again.load_state_dict(narrow.state_dict())
    assert torch.equal(again(x), narrow(x))
    assert again.stem[1].num_features == narrow.stem[1].num_features == 2
