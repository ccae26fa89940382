"""Slimming takes out what does nothing, and the model computes what it did."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_dynprune.coupling import CouplingError, Narrowing, attention_heads, coupled_groups
from lightning_dynprune.deploy.slimming import slim
from lightning_dynprune.deploy.slimming.removal import SlimError
from tests.coupling.test_heads import GroupedQuery
from tests.networks import GPT, NETWORKS, Block, Concat, flattened, residual, settled


def prune(network, example_input, share=0.5, seed=0, heads=True):
    """Zero a random share of the units of every group, all that makes and reads them; return how many are left."""
    groups = list(coupled_groups(network, example_input).groups) + (attention_heads(network) if heads else [])
    generator = torch.Generator().manual_seed(seed)
    kept = []
    for group in groups:
        order = torch.randperm(group.units, generator=generator)
        kept.append(torch.ones(group.units, dtype=torch.bool).index_fill_(0, order[: int(share * group.units)], False))
    Narrowing(network).zero(groups, kept)
    return {group.name: int(keep.sum()) for group, keep in zip(groups, kept, strict=True)}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_pruned_units_go_and_outputs_stay(name, share):
    torch.manual_seed(0)
    make, example = NETWORKS[name]
    network, example_input = settled(make()), example()
    left = prune(network, example_input, share)
    other = example()
    expected, parameters = network(other), sum(p.numel() for p in network.parameters())
    names = list(network.state_dict())
    report = slim(network, example_input)
    assert {group: after for group, (_, after) in report.widths.items()} == left
    assert torch.allclose(network(other), expected, atol=1e-5 * float(expected.detach().abs().max()), rtol=0)
    assert sum(p.numel() for p in network.parameters()) == report.parameters[1] < parameters == report.parameters[0]
    assert list(network.state_dict()) == names


def test_outputs_are_the_same_to_the_bit_where_the_sums_are():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1, bias=False)).double()
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[1.0, 0.0, 2.0, 0.0]]))
        network[0].weight.copy_(torch.arange(12.0).view(4, 3))
        network[0].bias.fill_(1.0)
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    expected = network(x)
    assert slim(network, x).difference == 0
    assert torch.equal(network(x), expected)
    assert network[0].weight.tolist() == [[0.0, 1.0, 2.0], [6.0, 7.0, 8.0]]
    assert network[2].weight.tolist() == [[1.0, 2.0]]


def test_parameters_and_buffers_stay_the_same_objects_in_their_memory_format_and_gradients_follow():
    network = settled(residual()).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8)
    prune(network, x)
    network.train()
    network(x).sum().backward()
    network.eval()
    objects = dict((*network.named_parameters(), *network.named_buffers()))
    grads = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    rows = network[1].conv_1.weight.flatten(1).ne(0).any(1)
    columns = network[1].conv_1.weight.movedim(1, 0).flatten(1).ne(0).any(1)
    slim(network, x)
    now = dict((*network.named_parameters(), *network.named_buffers()))
    assert all(now[name] is tensor for name, tensor in objects.items())
    weight = network[1].conv_1.weight
    assert weight.shape == (3, 4, 3, 3)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight.grad, grads["1.conv_1.weight"][rows][:, columns])
    network.train()
    network(x).sum().backward()


def test_modules_say_their_new_widths():
    network = settled(NETWORKS["mobile"][0]())
    x = torch.randn(2, 3, 12, 12)
    prune(network, x)
    slim(network, x)
    depthwise, norm = network[2].depthwise, network[2].norm_2
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups, norm.num_features) == (6, 6, 6, 6)
    assert (network[0].out_channels, network[4][2].in_features) == (3, 3)


def test_units_that_only_unstructured_pruning_killed_go_and_what_that_kills_goes_too():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        network[0].weight[1], network[0].bias[1] = 0, 0  # nothing writes unit 1 ...
        network[2].weight[:, 3] = 0  # ... nobody reads unit 3 ...
        network[2].weight[0, [0, 2]] = 0  # ... so that unit 0 of the next layer reads what is not there
        network[2].bias[0] = 0
        network[4].weight[:, 2] = 0
    x = torch.randn(5, 3)
    expected = network(x)
    report = slim(network, x)
    assert report.widths == {"0.weight": (4, 2), "2.weight": (4, 2)}
    assert torch.allclose(network(x), expected, atol=1e-6)


def test_constant_channels_go_into_the_biases_of_what_reads_them():
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        network[0].weight[0], network[0].bias[0] = 0, 2.0
        network[2].weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        network[2].bias.copy_(torch.tensor([10.0, 20.0]))
    x = torch.randn(5, 3)
    expected = network(x)
    report = slim(network, x)
    assert report.widths == {"0.weight": (3, 2)}
    assert report.folded == {"2": 1}
    assert network[2].bias.tolist() == [12.0, 28.0]
    assert network[2].weight.tolist() == [[2.0, 3.0], [5.0, 6.0]]
    assert torch.allclose(network(x), expected, atol=1e-6)


def test_a_constant_folds_through_a_norm_a_pooling_and_an_unpadded_convolution():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sigmoid(), nn.AvgPool2d(2), nn.Conv2d(4, 3, 2), nn.Flatten()]
    network = settled(nn.Sequential(*layers, nn.Linear(12, 2)))
    with torch.no_grad():
        network[0].weight[2] = 0
        network[4].weight[1] = 0
    x, other = torch.randn(2, 1, 8, 8), torch.randn(4, 1, 8, 8) * 9
    expected = network(other)
    report = slim(network, x)
    assert report.widths == {"0.weight": (4, 3), "4.weight": (3, 2)}
    assert report.folded == {"4": 1, "6": 1}
    assert torch.allclose(network(other), expected, atol=1e-5)


@pytest.mark.parametrize("reader", [nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 2, 1, bias=False)])
def test_a_constant_that_no_bias_can_take_over_stays_and_is_said(reader):
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Sigmoid(), reader)
    with torch.no_grad():
        network[0].weight[0] = 0
    x = torch.randn(1, 1, 6, 6)
    expected = network(x)
    report = slim(network, x)
    assert report.widths == {"0.weight": (3, 3)}
    assert report.kept_constant == {"0.weight": "1 constant channels stay for '2'"}
    assert torch.equal(network(x), expected)


def test_a_constant_stays_where_folding_is_off_and_zeros_go():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        network[0].weight[:2], network[0].bias[:2] = 0, torch.tensor([1.0, -1.0])  # ReLU makes a zero of the second
    before = network[2].bias.clone()
    assert slim(network, torch.randn(5, 3), fold=False).widths == {"0.weight": (4, 3)}
    assert torch.equal(network[2].bias, before)


def test_a_channel_that_is_zero_on_the_example_alone_stays():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        network[0].bias.zero_()
    assert slim(network, torch.ones(3, 2)).widths == {"0.weight": (2, 2)}


def test_a_dead_branch_keeps_one_unit_and_round_to_keeps_a_multiple():
    def made():
        network = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 2))
        network[2].weight.data[:, :7] = 0
        return network

    x = torch.randn(2, 3)
    network = made()
    expected = network(x)
    assert slim(network, x, round_to=4).widths == {"0.weight": (10, 4)}
    assert torch.allclose(network(x), expected, atol=1e-6)
    assert slim(made(), x, round_to=16).widths == {"0.weight": (10, 10)}
    dead = made()
    dead[2].weight.data.zero_()
    assert slim(dead, x).widths == {"0.weight": (10, 1)}


def test_slimming_twice_takes_nothing_more():
    network = settled(Concat())
    x = torch.randn(2, 3, 6, 6)
    prune(network, x)
    slim(network, x)
    report = slim(network, x)
    assert all(before == after for before, after in report.widths.values())
    assert report.parameters[0] == report.parameters[1]
    assert report.difference == 0


def test_heads_go_and_the_module_says_how_many_are_left():
    torch.manual_seed(0)
    network, tokens = GPT(width=24, heads=4, depth=1), torch.randint(11, (2, 7))
    block = network.blocks[0]
    with torch.no_grad():
        block.project.weight[:, 6:12] = 0  # head 1 is not read
        block.qkv.weight.view(3, 4, 6, 24)[:, 3] = 0  # head 3 gives zeros
        block.qkv.bias.view(3, 4, 6)[:, 3] = 0
    expected = network(tokens)
    report = slim(network, tokens)
    assert report.widths["blocks.0.qkv.weight"] == (4, 2)
    assert block.heads == 2
    assert block.qkv.weight.shape == (3 * 12, 24)
    assert block.project.weight.shape == (24, 12)
    assert torch.allclose(network(tokens), expected, atol=1e-5)


def test_query_heads_that_share_keys_go_as_a_group_and_one_of_every_group():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), GroupedQuery(heads=6, key_heads=3), First())
    attention = network[1]
    with torch.no_grad():
        attention.o_proj.weight[:, 4:8] = 0  # the second group of two heads of two channels
        attention.o_proj.weight.view(8, 3, 2, 2)[:, :, 1] = 0  # the second query head of every group
        attention.q_proj.weight[:2] = 0  # a head without queries still has an output
    x = torch.randn(2, 5, 8)
    expected = network(x)
    report = slim(network, x)
    assert report.widths == {"0.weight": (8, 8), "1.k_proj.weight": (3, 2), "1.q_proj.weight": (2, 1)}
    assert attention.q_proj.weight.shape == attention.k_proj.weight.shape == (4, 8)
    assert attention.num_key_value_groups == 1
    assert torch.allclose(network(x), expected, atol=1e-6)


class First(nn.Module):
    def forward(self, outputs):
        return outputs["output"]


class Stubborn(Block):
    """Its forward takes the head size from the width, so it does something else with fewer heads."""

    def forward(self, x):
        heads = self.qkv(self.norm_1(x)).reshape(*x.shape[:2], 3, self.heads, x.shape[-1] // self.heads)
        attended = F.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))
        return x + self.project(attended.transpose(1, 2).reshape(x.shape))


def test_an_attention_that_cannot_have_fewer_heads_is_named_and_keeps_them():
    network = nn.Sequential(nn.Linear(5, 24), Stubborn(), nn.Linear(24, 8), nn.Linear(8, 2))
    network[1].project.weight.data[:, :8] = 0
    network[3].weight.data[:, :3] = 0
    x = torch.randn(2, 4, 5)
    expected, state = network(x), copy.deepcopy(network[1].qkv.state_dict())
    report = slim(network, x)
    assert report.widths == {"2.weight": (8, 5)}
    reason = report.left_out["1.qkv.weight"]
    assert "Stubborn '1' does not compute the same with fewer heads" in reason
    assert "head size fixed" in reason
    assert "heads={'1': 0}" in reason
    assert network[1].heads == 3
    assert all(torch.equal(value, state[key]) for key, value in network[1].qkv.state_dict().items())
    assert torch.allclose(network(x), expected, atol=1e-6)
    assert "mixes them with one another" in slim(network, x, heads={"1": 0}).left_out["1.qkv.weight"]


def test_excluded_parameters_keep_their_heads():
    network, tokens = GPT(width=24, heads=4, depth=2), torch.randint(11, (2, 7))
    for block in network.blocks:
        block.project.weight.data[:, 6:12] = 0
    report = slim(network, tokens, exclude="blocks.0.project.*")
    assert report.left_out["blocks.0.qkv.weight"] == "'blocks.0.project.weight' is excluded"
    assert report.widths["blocks.1.qkv.weight"] == (4, 3)
    assert network.blocks[0].heads == 4


def test_torch_attention_keeps_its_zero_heads_and_is_said():
    network = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network.self_attn.out_proj.weight.data[:, :4] = 0
    network.linear2.weight.data[:, :5] = 0
    report = slim(network, torch.randn(2, 3, 8))
    assert report.widths == {"linear1.weight": (16, 11)}
    assert "head size from its width" in report.left_out["self_attn.in_proj_weight"]


def test_ambiguous_heads_matter_only_where_heads_are_asked_for():
    network = GPT(depth=2)
    network.blocks[0].other, network.blocks[0].another = nn.Linear(24, 72), nn.Linear(72, 24)
    network.blocks[0].qkv_2 = nn.Linear(24, 72)
    tokens = torch.randint(11, (2, 7))
    network.blocks[1].project.weight.data[:, :8] = 0
    report = slim(network, tokens)
    assert "more than one way" in report.left_out["blocks.0"]
    assert report.widths["blocks.1.qkv.weight"] == (3, 2)
    with pytest.raises(CouplingError, match="more than one way"):
        slim(network, tokens, heads={})


class Fickle(nn.Module):
    """Computes something else when it has run ``limit`` times."""

    def __init__(self, limit):
        super().__init__()
        self.calls, self.limit = 0, limit

    def forward(self, x):
        self.calls += 1
        return x * (1.5 if self.calls >= self.limit else 1)


def test_outputs_that_move_too_far_put_everything_back():
    network = settled(residual()).append(Fickle(10**9))
    x = torch.randn(2, 3, 8, 8)
    prune(network, x)
    trial = copy.deepcopy(network)
    trial[-1].calls = 0
    slim(trial, x)
    network[-1].calls, network[-1].limit = 0, trial[-1].calls  # the last run is the one that is compared
    network[0][0].weight.grad = torch.ones_like(network[0][0].weight)
    state = copy.deepcopy(network.state_dict())
    with pytest.raises(SlimError, match=r"outputs moved by 0\.\d+ of their largest value, tolerance=1e-05"):
        slim(network, x)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert network[0][0].out_channels == 8
    assert torch.equal(network[0][0].weight.grad, torch.ones(8, 3, 3, 3))


def test_a_graph_that_still_lives_does_not_stand_in_the_way_of_the_next_backward():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    network[2].weight.data[:, 1:3] = 0
    x = torch.randn(2, 3)
    alive = network(x).sum()
    alive.backward(retain_graph=True)
    slim(network, x)
    network.zero_grad()
    network(x).sum().backward()
    assert network[0].weight.grad.shape == (2, 3)


@pytest.mark.parametrize(("settings", "message"), [
    ({"tolerance": -1}, "tolerance"), ({"round_to": 0}, "round_to"), ({"fold": "yes"}, "fold"),
    ({"exclude": "nothing"}, "matches no parameter"), ({"heads": {"nothing": 1}}, "matches no module"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused_in_words(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        slim(flattened(), torch.randn(1, 1, 10, 10), **settings)


def test_the_report_prints_as_a_table():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    network[2].weight.data[:, 1:3] = 0
    assert str(slim(network, torch.randn(1, 3))).splitlines() == [
        "            before  after",
        "0.weight         4      2",
        "parameters      26     14",
        "bytes          104     56",
        "outputs changed by 0 of their largest value",
        "2.weight: they are the model's outputs",
    ]


def test_half_precision_and_frozen_models_are_slimmed_too():
    network = settled(flattened()).to(torch.bfloat16).requires_grad_(False)
    x = torch.randn(2, 1, 10, 10, dtype=torch.bfloat16)
    prune(network, x)
    expected = network(x)
    assert slim(network, x, tolerance=1e-2).widths == {"0.weight": (4, 2), "3.weight": (6, 3), "6.weight": (8, 4)}
    assert torch.allclose(network(x).float(), expected.float(), atol=1e-2)
    assert not any(parameter.requires_grad for parameter in network.parameters())
