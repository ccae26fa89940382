"""Which channels and heads can only be removed together."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_dynprune.coupling import CouplingError, attention_heads, coupled_groups
from lightning_dynprune.coupling.tracing import trace
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
    (nn.LayerNorm(6), "LayerNorm 'middle' (native_layer_norm) mixes them with one another"),
    (nn.RMSNorm(6), "RMSNorm 'middle' (mean) mixes them with one another"),
    (nn.GroupNorm(2, 6), "GroupNorm 'middle' (native_group_norm) mixes them"),
    (nn.Softmax(-1), "Softmax 'middle' (_softmax) mixes them with one another"),
    (Do(lambda x: x.cumsum(-1)), "Do 'middle' (cumsum) mixes them with one another"),
    (Do(lambda x: x - x.mean(-1, keepdim=True)), "Do 'middle' (mean) mixes them with one another"),
    (Do(lambda x: x.maximum(x.amax(-1, keepdim=True))), "Do 'middle' (amax) mixes them with one another"),
    (Do(lambda x: torch.cat([x[:, :5], x[:, :1]], dim=1)), "Do 'middle' (slice) takes some of them by their position"),
    (Do(lambda x: x.view(-1, 6)[:, [3, 4, 5, 0, 1, 2]]), "Do 'middle' (index) takes them by their position"),
    (Scale(), "they meet the parameter 'middle.scale' in Scale 'middle' (mul)"),
    (Buffered(), "they meet the buffer 'middle.shift' in Buffered 'middle' (add)"),
    (Do(lambda x: x + torch.ones(6)), "the model does not run with fewer of these channels"),
])  # fmt: skip
def test_channels_that_do_not_stay_apart_are_left_out_with_the_reason(middle, reason):
    network = Around(middle, example=(2, 4))
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


def test_recurrent_layers_keep_their_channels():
    recurrent = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 5), Do(lambda x: x[0]), nn.Linear(5, 2))
    coupling = coupled_groups(recurrent, torch.randn(6, 3))
    assert coupling.groups == []
    assert re.fullmatch(r"LSTM '1' \(.*\) mixes them with one another", coupling.left_out["0.weight"])


def test_the_channels_of_one_group_of_a_grouped_convolution_are_a_unit():
    grouped = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1))
    (group,) = coupled_groups(grouped, torch.randn(1, 3, 4, 4)).groups
    assert (group.name, group.units) == ("0.weight", 2)
    index = {axis.name: (axis.dim, axis.writes, axis.index.tolist()) for axis in group.axes}
    assert index == {
        "0.weight": (0, True, [[0, 1], [2, 3]]),
        "0.bias": (0, True, [[0, 1], [2, 3]]),
        "1.weight": (0, True, [[0, 1, 2], [3, 4, 5]]),
        "1.bias": (0, True, [[0, 1, 2], [3, 4, 5]]),
        "3.weight": (1, False, [[0, 1, 2], [3, 4, 5]]),
    }


def test_a_transposed_grouped_convolution_has_its_groups_in_the_first_dimension():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Conv2d(6, 1, 1))
    (group,) = coupled_groups(net, torch.randn(1, 1, 2, 2)).groups
    index = {axis.name: (axis.dim, axis.index.tolist()) for axis in group.axes}
    assert index["1.weight"] == (0, [[0, 1], [2, 3]])
    assert index["1.bias"] == (0, [[0, 1, 2], [3, 4, 5]])


def test_a_grouped_convolution_of_the_inputs_keeps_its_channels():
    net = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1))
    coupling = coupled_groups(net, torch.randn(1, 4, 3, 3))
    assert coupling.groups == []


def test_attention_and_embeddings_keep_their_channels_and_the_feed_forward_does_not():
    coupling = coupled_groups(GPT(), torch.randint(11, (2, 7)))
    assert [group.name for group in coupling.groups] == ["blocks.0.feed_in.weight", "blocks.1.feed_in.weight"]
    assert "meet the parameter 'positions.weight'" in coupling.left_out["blocks.0.project.weight"]
    assert "scaled_dot_product" in coupling.left_out["blocks.0.qkv.weight"]
    encoder = nn.TransformerEncoderLayer(8, 2, 16)
    coupling = coupled_groups(encoder, torch.randn(5, 2, 8))
    assert [(group.name, group.units) for group in coupling.groups] == [("linear1.weight", 16)]


def test_channels_that_are_taken_by_their_position_are_left_out():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.left, self.right = nn.Linear(4, 6), nn.Linear(2, 3), nn.Linear(4, 3)

        def forward(self, x):
            left, right = self.first(x).relu().split([2, 4], dim=1)
            return self.left(left) + self.right(right)

    coupling = coupled_groups(Split(), torch.randn(2, 4))
    assert coupling.groups == []
    assert coupling.left_out["first.weight"] == "Split (split_with_sizes) takes some of them by their position"


class Halves(nn.Module):
    """Reads one half of the channels and multiplies by the other."""

    def __init__(self, split):
        super().__init__()
        self.first, self.last, self.split = nn.Linear(4, 6), nn.Linear(3, 3), split

    def forward(self, x):
        left, right = self.split(self.first(x))
        return self.last(left.tanh()) + self.last(right)


@pytest.mark.parametrize("split", [
    lambda x: x.chunk(2, dim=1),
    lambda x: x.unflatten(1, (2, -1)).unbind(1),
    lambda x: (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]),
    lambda x: x.view(2, 2, x.shape[1] // 2).transpose(0, 1),
])  # fmt: skip
def test_equal_parts_lose_the_same_positions(split):
    (group,) = coupled_groups(Halves(split), torch.randn(2, 4)).groups
    assert group.units == 3
    index = {axis.name: axis.index.tolist() for axis in group.axes}
    assert index["first.weight"] == [[0, 3], [1, 4], [2, 5]]
    assert index["last.weight"] == [[0], [1], [2]]


@pytest.mark.parametrize("split", [lambda x: x.split(3, 1), lambda x: (x[:, :3], x[:, 3:])])
def test_parts_of_a_fixed_size_are_left_out(split):
    coupling = coupled_groups(Halves(split), torch.randn(2, 4))
    assert coupling.groups == []
    assert "does not run with fewer of these channels" in coupling.left_out["first.weight"]


def test_units_of_a_gated_linear_unit_are_a_channel_and_its_gate():
    net = nn.Sequential(nn.Conv1d(2, 6, 1), nn.GLU(1), nn.Conv1d(3, 2, 1))
    (group,) = coupled_groups(net, torch.randn(1, 2, 5)).groups
    assert [axis.index.tolist() for axis in group.axes if axis.name == "0.weight"] == [[[0, 3], [1, 4], [2, 5]]]


def test_behind_a_pixel_shuffle_a_channel_is_written_by_all_rows_of_its_pixels():
    net = nn.Sequential(nn.Conv2d(1, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 2, 1))
    (group,) = coupled_groups(net, torch.randn(1, 1, 3, 3)).groups
    assert group.axes[0].index.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


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
    assert coupling.left_out["0.0.weight"] == "they are read by the module '1', which is excluded"
    coupling = coupled_groups(residual(), torch.randn(1, 3, 8, 8), exclude="1.norm_2.weight")
    assert [group.name for group in coupling.groups] == ["1.conv_1.weight", "2.conv_1.weight"]
    assert coupling.left_out["0.0.weight"] == "'1.norm_2.weight' is excluded"
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


def test_only_the_channels_of_the_given_writers_are_followed():
    every = coupled_groups(residual(), torch.randn(1, 3, 8, 8))
    assert [group.name for group in every.groups] == ["0.0.weight", "1.conv_1.weight", "2.conv_1.weight"]
    coupling = coupled_groups(residual(), torch.randn(1, 3, 8, 8), writers=["1.conv_1.weight", "1.conv_2.weight"])
    assert [group.name for group in coupling.groups] == ["1.conv_1.weight"]
    assert "meet the outputs of '0.0'" in coupling.left_out["1.conv_2.weight"]


class Recurrence(nn.Module):
    """A layer whose result runs through many steps."""

    def __init__(self, steps):
        super().__init__()
        self.first, self.last, self.steps = nn.Linear(3, 4), nn.Linear(4, 2), steps

    def forward(self, x):
        x = self.first(x)
        for _ in range(self.steps):
            x = x * 1.01
        return self.last(x)


def test_a_model_of_too_many_steps_is_refused_unless_the_module_is_excluded(monkeypatch):
    monkeypatch.setattr(trace, "MAX_OPERATIONS", 50)
    net = nn.Sequential(Recurrence(60), nn.ReLU(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with pytest.raises(CouplingError, match=r"Recurrence '0' runs operation 51 on channels.*exclude the parameters"):
        coupled_groups(net, torch.randn(1, 3))
    assert [group.name for group in coupled_groups(net, torch.randn(1, 3), exclude="0.*").groups] == ["2.weight"]
    writers = ["2.weight", "4.weight"]
    assert [group.name for group in coupled_groups(net, torch.randn(1, 3), writers=writers).groups] == ["2.weight"]


def test_a_tensor_that_the_model_keeps_carries_no_labels_afterwards():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            self.kept = self.first(x)
            return self.last(self.kept)

    net = Keeping()
    for _ in range(2):
        assert [group.name for group in coupled_groups(net, torch.randn(1, 3)).groups] == ["first.weight"]
    assert not vars(net.kept)


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
