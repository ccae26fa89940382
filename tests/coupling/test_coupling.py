"""Which channels and heads can only be removed together."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_dynprune.coupling import CouplingError, attention_heads, coupled_groups
from tests.networks import GPT, NETWORKS, Concat, flattened, mobile, residual, settled, waves


def names(group, writes):
    return {axis.name for axis in group.axes if axis.writes is writes}


def groups_of(network, example_input, **settings):
    return {group.name: group for group in coupled_groups(network, example_input, **settings).groups}


def test_a_residual_sum_shares_its_channels_with_all_that_write_and_read_it():
    groups = groups_of(residual(), torch.randn(1, 3, 8, 8))
    assert [(group.name, group.units) for group in groups.values()] == [
        ("0.0.weight", 8),
        ("1.conv_1.weight", 6),
        ("2.conv_1.weight", 5),
    ]
    shared = groups["0.0.weight"]
    norms = {
        f"{n}.{t}" for n in ("0.1", "1.norm_2", "2.norm_2") for t in ("weight", "bias", "running_mean", "running_var")
    }
    assert names(shared, True) == {"0.0.weight", "1.conv_2.weight", "2.conv_2.weight"} | norms
    assert names(shared, False) == {"1.conv_1.weight", "2.conv_1.weight", "3.2.weight"}
    assert all(axis.index.tolist() == [[u] for u in range(8)] for axis in shared.axes)


def test_a_depthwise_convolution_carries_and_a_gate_writes_the_channels_it_scales():
    groups = groups_of(mobile(), torch.randn(1, 3, 12, 12))
    inner = groups["2.expand.weight"]
    assert {"2.expand.weight", "2.excite.weight", "2.excite.bias", "2.depthwise.weight"} <= names(inner, True)
    assert names(inner, False) == {"2.reduce.weight", "2.project.weight"}
    assert names(groups["2.reduce.weight"], False) == {"2.excite.weight"}


def test_a_concatenation_is_read_at_offsets():
    right = groups_of(Concat(), torch.randn(1, 3, 6, 6))["right.weight"]
    index = {axis.name: axis.index.flatten().tolist() for axis in right.axes}
    assert index["right.weight"] == [0, 1, 2, 3, 4]
    assert index["norm.weight"] == index["norm.running_var"] == index["read.weight"] == [4, 5, 6, 7, 8]
    assert index["head.weight"] == [8, 9, 10, 11, 12]


def test_a_transposed_convolution_has_its_rows_in_the_second_dimension():
    groups = groups_of(Concat(), torch.randn(1, 3, 6, 6))
    assert [axis.dim for axis in groups["up.weight"].axes if axis.name == "up.weight"] == [1]
    assert [axis.dim for axis in groups["read.weight"].axes if axis.name == "up.weight"] == [0]


@pytest.mark.parametrize(("network", "example", "name", "width"), [
    (flattened(), torch.randn(1, 1, 10, 10), "3.weight", 4),
    (waves(), torch.randn(1, 2, 10), "3.weight", 6),
])  # fmt: skip
def test_behind_a_flatten_a_channel_is_read_at_all_its_places(network, example, name, width):
    group = groups_of(network, example)[name]
    axis = next(axis for axis in group.axes if not axis.writes)
    assert axis.index.tolist() == [list(range(u * width, (u + 1) * width)) for u in range(group.units)]


def test_a_gated_unit_is_written_by_both_of_its_layers():
    class SwiGLU(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x):
            return self.down(F.silu(self.gate(x)) * self.up(x))

    group = groups_of(SwiGLU(), torch.randn(1, 4))["gate.weight"]
    assert names(group, True) == {"gate.weight", "gate.bias", "up.weight", "up.bias"}


class Around(nn.Module):
    """Linear, something, Linear."""

    def __init__(self, middle, width=6, example=(2, 4)):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, width), middle, nn.Linear(width, 3)
        self.example = torch.randn(example)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(6))

    def forward(self, x):
        return x * self.scale


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.rand(6))

    def forward(self, x):
        return x + self.shift


class Do(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(("middle", "reason"), [
    (nn.LayerNorm(6), "LayerNorm 'middle' reads them, and it needs all or mixes them"),
    (nn.RMSNorm(6), "meets the parameter 'middle.weight'"),
    (nn.GroupNorm(2, 6), "GroupNorm 'middle' reads them, and it needs all or mixes them"),
    (nn.Softmax(-1), "Linear 'last' reads them mixed with one another"),
    (Do(lambda x: x.cumsum(-1)), "Linear 'last' reads them mixed with one another"),
    (Do(lambda x: x - x.mean(-1, keepdim=True)), "Linear 'last' reads them mixed with one another"),
    (Do(lambda x: x * x.flip(-1)), "Linear 'last' reads them mixed with one another"),
    (Do(lambda x: x.maximum(x.amax(-1, keepdim=True))), "Linear 'last' reads them mixed with one another"),
    (Do(lambda x: torch.cat([x[:, :5], x[:, :1]], dim=1)), "'last' reads some of them more often than others"),
    (Do(lambda x: x.view(-1, 6)[:, [3, 4, 5, 0, 1, 2]]), "the model does not run with fewer of these channels"),
    (Scale(), "meets the parameter 'middle.scale'"),
    (Buffered(), "Buffered 'middle' reads them"),
    (Do(lambda x: x + torch.ones(6)), "the model does not run with fewer of these channels"),
    (Do(lambda x: x[:, :3] * x[:, 3:].repeat(1, 2)[:, :3]), ""),
])  # fmt: skip
def test_channels_that_do_not_stay_apart_are_left_out_with_the_reason(middle, reason):
    network = Around(middle, example=(2, 4))
    if not reason:
        network.last, reason = nn.Linear(3, 3), "'last' reads them mixed with one another"
    coupling = coupled_groups(network, network.example)
    assert coupling.groups == []
    assert reason in coupling.left_out["first.weight"]
    assert "model's outputs" in coupling.left_out["last.weight"]


def test_what_acts_on_each_channel_alone_keeps_them_apart():
    for middle in (
        nn.Sigmoid(),
        nn.Softplus(),
        nn.Dropout(0.9),
        Do(lambda x: x.exp() * 3 + 1),
        nn.PReLU(6),
        nn.ReLU6(),
    ):
        network = Around(middle)
        assert [group.name for group in coupled_groups(network, network.example).groups] == ["first.weight"], middle


def test_groups_of_one_channel_in_a_group_norm_are_carried():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(4, 4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    (group,) = coupled_groups(network, torch.randn(2, 1, 5, 5)).groups
    assert {"1.weight", "1.bias"} <= names(group, True)


def test_grouped_convolutions_and_recurrent_layers_keep_their_channels():
    grouped = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1))
    coupling = coupled_groups(grouped, torch.randn(1, 3, 4, 4))
    assert coupling.groups == []
    assert "meets the grouped convolution '1'" in coupling.left_out["0.weight"]
    recurrent = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 5), Do(lambda x: x[0]), nn.Linear(5, 2))
    coupling = coupled_groups(recurrent, torch.randn(6, 3))
    assert coupling.groups == []
    assert "LSTM '1' reads them" in coupling.left_out["0.weight"]


def test_attention_and_embeddings_keep_their_channels_and_the_feed_forward_does_not():
    coupling = coupled_groups(GPT(), torch.randint(11, (2, 7)))
    assert [group.name for group in coupling.groups] == ["blocks.0.feed_in.weight", "blocks.1.feed_in.weight"]
    assert "embedding 'tokens'" in coupling.left_out["blocks.0.project.weight"]
    assert "mixed with one another" in coupling.left_out["blocks.0.qkv.weight"]
    encoder = nn.TransformerEncoderLayer(8, 2, 16)
    coupling = coupled_groups(encoder, torch.randn(5, 2, 8))
    assert [(group.name, group.units) for group in coupling.groups] == [("linear1.weight", 16)]


def test_a_split_that_is_read_apart_is_found_or_left_out_never_wrong():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.left, self.right = nn.Linear(4, 6), nn.Linear(2, 3), nn.Linear(4, 3)

        def forward(self, x):
            left, right = self.first(x).relu().split([2, 4], dim=1)
            return self.left(left) + self.right(right)

    coupling = coupled_groups(Split(), torch.randn(2, 4))
    assert coupling.groups == []
    assert "first.weight" in coupling.left_out


def test_tied_and_computed_weights_are_left_out():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.c(self.b(self.a(x).relu()).relu())

    coupling = coupled_groups(Tied(), torch.randn(2, 4))
    assert coupling.groups == []
    assert coupling.left_out["a.weight"] == "'a.weight' is tied: a.weight, b.weight"
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2))
    coupling = coupled_groups(normed, torch.randn(2, 3))
    assert coupling.groups == []
    assert "is computed" in coupling.left_out["0.weight"]


def test_a_layer_that_runs_twice_couples_what_its_runs_read():
    class Twice(nn.Module):
        def __init__(self, other):
            super().__init__()
            self.a, self.b, self.read = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)
            self.other = other

        def forward(self, x):
            return self.read(self.a(x).relu()) + self.read((self.b(x) if self.other else self.a(x)).tanh())

    assert [group.name for group in coupled_groups(Twice(False), torch.randn(2, 4)).groups] == ["a.weight"]
    (group,) = coupled_groups(Twice(True), torch.randn(2, 4)).groups
    assert names(group, True) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_exclude_leaves_out_every_group_with_such_a_parameter():
    coupling = coupled_groups(residual(), torch.randn(1, 3, 8, 8), exclude="1.*")
    assert [group.name for group in coupling.groups] == ["2.conv_1.weight"]
    assert coupling.left_out["0.0.weight"] == "'1.conv_2.weight' is excluded"
    with pytest.raises(CouplingError, match="exclude: 'nothing' matches no parameter of Sequential"):
        coupled_groups(residual(), torch.randn(1, 3, 8, 8), exclude=["nothing"])


def test_examples_are_a_tensor_arguments_or_keyword_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x, scale=None):
            return {"logits": self.last(self.first(x) * scale), "mean": None}

    x, scale = torch.randn(2, 4), torch.tensor(2.0)
    for example in ((x, scale), [x, scale], {"scale": scale, "x": x}):
        assert [group.name for group in coupled_groups(Two(), example).groups] == ["first.weight"]


def test_an_example_that_does_not_fit_names_the_module_it_fails_in():
    with pytest.raises(CouplingError, match=r"module '1.conv_1' \(Conv2d\) raised RuntimeError.*tuple of arguments"):
        coupled_groups(nn.Sequential(nn.Identity(), residual()[1]), torch.randn(1, 3, 8, 8))
    with pytest.raises(CouplingError, match="gives no tensor that depends on its parameters"):
        coupled_groups(nn.Sequential(nn.Linear(3, 3), Do(lambda x: x.detach())), torch.randn(1, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_is_as_it_was_afterwards(name):
    make, example = NETWORKS[name]
    network, example_input = settled(make()).train(), example()
    next(network.children()).eval()
    first = next(network.parameters())
    first.requires_grad_(False)
    first.grad = torch.ones_like(first)
    objects = {key: (id(value), value.data_ptr()) for key, value in network.named_parameters()}
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    before = torch.get_rng_state()
    with torch.no_grad():
        coupled_groups(network, example_input)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in network.modules()] == modes
    assert {key: (id(value), value.data_ptr()) for key, value in network.named_parameters()} == objects
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not first.requires_grad
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(value.grad is None for value in list(network.parameters())[1:])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_without_torch_pruning_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning.dependency", None)
    with pytest.raises(ImportError, match=r"lightning-dynprune\[slim\]"):
        coupled_groups(flattened(), torch.randn(1, 1, 10, 10))


def test_heads_of_one_projection_lie_in_its_three_thirds():
    group = attention_heads(GPT(width=6, heads=3, depth=1))[0]
    assert (group.name, group.units, group.width_attributes) == ("blocks.0.qkv.weight", 3, ("blocks.0.heads",))
    index = {axis.name: (axis.dim, axis.writes, axis.index[1].tolist()) for axis in group.axes}
    assert index == {
        "blocks.0.qkv.weight": (0, True, [2, 3, 8, 9, 14, 15]),
        "blocks.0.qkv.bias": (0, True, [2, 3, 8, 9, 14, 15]),
        "blocks.0.project.weight": (1, False, [2, 3]),
    }


class Attention(nn.Module):
    """Three projections, as Hugging Face and diffusers name them; the head size is fixed."""

    def __init__(self, names=("to_q", "to_k", "to_v", "to_out"), inner=8, heads=2):
        super().__init__()
        if heads:
            self.num_heads = heads
        for name in names[:3]:
            setattr(self, name, nn.Linear(6, inner, bias=False))
        setattr(self, names[3], nn.Linear(inner, 6))


@pytest.mark.parametrize("names_", [
    ("to_q", "to_k", "to_v", "to_out"), ("q_proj", "k_proj", "v_proj", "out_proj"), ("query", "key", "value", "dense"),
    ("wq", "wk", "wv", "wo"), ("q", "k", "v", "o"), ("q_lin", "k_lin", "v_lin", "out_lin"),
    ("queries", "keys", "values", "out"),
])  # fmt: skip
def test_three_projections_are_found_by_their_names(names_):
    (group,) = attention_heads(Attention(names_))
    assert [(axis.name, axis.dim) for axis in group.axes] == [
        *((f"{name}.weight", 0) for name in names_[:3]),
        (f"{names_[3]}.weight", 1),
    ]
    assert all(axis.index.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] for axis in group.axes)


def test_torch_attention_has_its_heads_in_the_packed_projection():
    (group,) = attention_heads(nn.MultiheadAttention(4, 2))
    index = {axis.name: (axis.dim, axis.index[1].tolist()) for axis in group.axes}
    packed = (0, [2, 3, 6, 7, 10, 11])
    assert index == {"in_proj_weight": packed, "in_proj_bias": packed, "out_proj.weight": (1, [2, 3])}
    separate = attention_heads(nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True))[0]
    assert [(axis.name, axis.dim) for axis in separate.axes if axis.index.shape == (2, 2)] == [
        ("q_proj_weight", 0), ("k_proj_weight", 0), ("v_proj_weight", 0), ("bias_k", 2), ("bias_v", 2),
        ("out_proj.weight", 1),
    ]  # fmt: skip


def test_the_number_of_heads_can_be_given_and_a_module_left_out():
    network = nn.ModuleDict({"self": Attention(heads=0), "cross": Attention(heads=4)})
    assert [group.name for group in attention_heads(network)] == ["cross.to_q.weight"]
    groups = attention_heads(network, {"self": 2, "cr*": 0})
    assert [(group.name, group.units, group.width_attributes) for group in groups] == [("self.to_q.weight", 2, ())]


@pytest.mark.parametrize(("network", "heads", "message"), [
    (Attention(inner=9), None, "has 2 heads, which do not divide its width 9"),
    (nn.ModuleDict({"a": Attention()}), {"b": 2}, "'b' matches no module of ModuleDict"),
    (nn.ModuleDict({"a": Attention()}), {"a": -1}, "-1 is not a number of heads"),
])  # fmt: skip
def test_heads_that_cannot_be_told_are_refused_in_words(network, heads, message):
    with pytest.raises(CouplingError, match=message):
        attention_heads(network, heads)


def test_projections_that_can_be_read_in_two_ways_are_refused_naming_both():
    network = nn.Module()
    network.heads = 2
    network.a, network.b, network.c = nn.Linear(4, 12), nn.Linear(4, 4), nn.Linear(4, 4)
    with pytest.raises(CouplingError, match=r"more than one way: a -> b; a -> c.*leave it out"):
        attention_heads(nn.ModuleDict({"attention": network}))
    del network.c
    assert attention_heads(nn.ModuleDict({"attention": network}))[0].name == "attention.a.weight"


def test_channels_that_two_paths_bring_together_are_one_group_whatever_order_the_graph_lists_them_in():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_1, self.norm_1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.conv_2, self.norm_2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.last = nn.Linear(8 * 16, 5)

        def forward(self, x):
            x = self.norm_1(self.conv_1(x)).relu()
            x = (x + self.norm_2(self.conv_2(x))).relu()
            return self.last(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))

    coupling = coupled_groups(Net(), torch.randn(4, 1, 8, 8))
    assert [group.name for group in coupling.groups] == ["conv_1.weight"]
    read = {axis.name: tuple(axis.index.shape) for axis in coupling.groups[0].axes if not axis.writes}
    assert read == {"conv_2.weight": (8, 1), "last.weight": (8, 16)}
