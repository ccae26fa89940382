"""Constants among the inputs of layers, found by running on noise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.coupling import coupled_groups, isolated
from lightning_dynprune.deploy.slimming.constant_inputs import ConstantInputs, Noise


def constants(network, example):
    with isolated(network), torch.no_grad():
        return ConstantInputs(network, example, coupled_groups(network, example).groups)


class Saturating(nn.Module):
    """Constant for large values, but not for small ones."""

    def forward(self, x):
        return x.clamp(-0.5, 0.5).abs()


@pytest.mark.parametrize("middle", [nn.ReLU(), nn.Sigmoid(), nn.ReLU6(), nn.Tanh(), Saturating()])
def test_channels_with_weights_are_no_constants_whatever_follows_them(middle):
    network = nn.Sequential(nn.Linear(3, 4), middle, nn.Linear(4, 2))
    assert constants(network, torch.randn(1, 3)).of("2").isnan().all()


def test_a_channel_without_weights_has_the_value_of_its_bias():
    network = nn.Sequential(nn.Conv2d(1, 3, 3, 2, "valid"), nn.ReLU(), nn.Conv2d(3, 2, 3, padding="same"), nn.Flatten())
    network[0].weight.data[1] = 0
    network[0].bias.data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    found = constants(network.append(nn.Linear(2 * 9, 1)), torch.randn(2, 1, 8, 8))
    assert found.of("2").isnan().tolist() == [True, False, True]
    assert found.of("2")[1] == 2.0


def test_a_norm_without_scale_makes_a_constant_of_channels_with_weights():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    network[1].weight.data[0], network[1].bias.data[0] = 0, 0.25
    assert constants(network, torch.randn(2, 3)).of("2").nan_to_num(9.0).tolist() == [0.25, 9.0]


def test_layers_are_not_computed_and_are_as_before_afterwards(monkeypatch):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 3))
    example = torch.randn(1, 1, 6, 6)
    groups = coupled_groups(network, example).groups
    monkeypatch.setattr(nn.Conv2d, "forward", None)
    with torch.no_grad():
        ConstantInputs(network.eval(), example, groups)
    assert all("forward" not in vars(module) for module in network.modules())


@pytest.mark.parametrize("layer", [
    nn.Conv1d(2, 3, 3, stride=2, padding=1), nn.Conv2d(2, 3, (3, 2), dilation=(2, 1), padding=(0, 1)),
    nn.Conv2d(2, 3, 4, padding="same"), nn.Conv3d(2, 3, 2, padding="valid"), nn.Linear(5, 3),
    nn.ConvTranspose2d(2, 3, 3, 2),
])  # fmt: skip
def test_noise_has_the_shape_of_the_layers_output(layer):
    dims = len(getattr(layer, "kernel_size", ()))
    example = torch.randn(1, 2, *[7] * dims) if dims else torch.randn(2, 5)
    seen = []
    network = nn.Sequential(layer, nn.Identity())
    network[1].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    with torch.no_grad():
        network(example)
        ConstantInputs(network.eval(), example, [])
    assert len(set(seen)) == 1


def test_rows_that_become_zero_are_measured_again():
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    example = torch.randn(1, 3)
    found = constants(network, example)
    network[2].weight.data[1] = 0
    network[2].bias.data[1] = 0.5
    nothing = [torch.zeros(2, dtype=torch.bool)] * 2
    with torch.no_grad():
        found.refresh(example, nothing)
    assert found.of("4").nan_to_num(9.0).tolist() == [9.0, 0.5]


def test_noise_has_both_signs_and_all_sizes_or_one_level():
    noise = Noise()
    mixed = noise.of_shape((10_000,), torch.empty(0))
    assert mixed.min() < -1000
    assert mixed.max() > 1000
    assert (mixed.abs() < 0.1).any()
    noise.level = -2.0
    level = noise.of_shape((1000,), torch.empty(0, dtype=torch.float64))
    assert level.dtype == torch.float64
    assert -3.0 <= level.min() < level.max() <= -1.0


@pytest.mark.parametrize("size", [4, 8, 32])
def test_one_pooled_value_of_one_example_is_no_constant_however_large_the_image(size):
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    example = torch.ones(1, 1, size, size)
    groups = coupled_groups(net, example).groups
    assert ConstantInputs(net, example, groups).of("4").isnan().all()
