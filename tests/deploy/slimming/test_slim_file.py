"""A slim model comes back from its file, and a file that does not fit leaves the model as it was."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lightning_dynprune.coupling import Narrowing, attention_heads, coupled_groups
from lightning_dynprune.deploy.slimming import load, save, slim
from tests.coupling.test_heads import GroupedQuery, Stack
from tests.networks import GPT, NETWORKS, mobile, residual, settled


def slimmed(make, example_input):
    network = settled(make())
    groups = [*coupled_groups(network, example_input).groups, *attention_heads(network)]
    Narrowing(network).zero(groups, [torch.arange(group.units) % 3 != 0 for group in groups])
    slim(network, example_input)
    return network


@pytest.fixture
def saved(tmp_path):
    network = slimmed(residual, torch.randn(2, 3, 8, 8))
    save(network, tmp_path / "slim.safetensors")
    return network, tmp_path / "slim.safetensors"


def rewrite(path, tensors=None, **metadata):
    """Write a file anew with some of its tensors and metadata changed; None takes them out."""
    with safe_open(path, "pt") as file:
        content = {**file.metadata(), **metadata}
    kept = {**load_file(path), **(tensors or {})}
    save_file(
        {name: tensor for name, tensor in kept.items() if tensor is not None},
        path,
        {key: value for key, value in content.items() if value is not None},
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("with_example", [False, True])
def test_a_slim_model_is_rebuilt_from_its_class_and_its_file(name, with_example, tmp_path):
    torch.manual_seed(0)
    make, example = NETWORKS[name]
    network, example_input = slimmed(make, example()), example()
    save(network, str(tmp_path / "slim.safetensors"))
    fresh = make().train()
    objects = list(fresh.parameters())
    again = load(fresh, tmp_path / "slim.safetensors", example_input if with_example else None)
    assert again is fresh
    assert again.training
    assert all(a is b for a, b in zip(fresh.parameters(), objects, strict=True))
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in network.parameters())
    assert torch.equal(again.eval()(example_input), network(example_input))
    assert [repr(module) for module in again.modules()] == [repr(module) for module in network.modules()]
    again.train()(example_input).sum().backward()


def test_a_dense_model_and_its_memory_format_round_trip_too(tmp_path):
    network = settled(mobile())
    save(network.to(memory_format=torch.channels_last), tmp_path / "dense.safetensors")
    again = load(mobile().to(memory_format=torch.channels_last), tmp_path / "dense.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_a_narrowed_weight_has_the_models_memory_format(saved):
    fresh = load(residual().to(memory_format=torch.channels_last), saved[1])
    assert fresh[1].conv_1.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fresh[1].conv_1.weight, saved[0][1].conv_1.weight)


def test_the_file_is_safetensors_with_the_state_dict_and_json(tmp_path):
    network = slimmed(GPT, torch.randint(11, (2, 7)))
    save(network, tmp_path / "slim.safetensors")
    tensors = load_file(tmp_path / "slim.safetensors")
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in tensors.items())
    with safe_open(tmp_path / "slim.safetensors", "pt") as file:
        said = json.loads(file.metadata()["attributes"])
    assert said == {"blocks.0.heads": 2, "blocks.1.heads": 2}


def test_a_tied_tensor_is_written_once_and_tied_again(tmp_path):
    network = slimmed(lambda: GPT(tied=True), torch.randint(11, (2, 7)))
    save(network, tmp_path / "slim.safetensors")
    tensors = load_file(tmp_path / "slim.safetensors")
    assert "tokens.weight" in tensors
    assert "head.weight" not in tensors
    again = load(GPT(tied=True), tmp_path / "slim.safetensors")
    assert again.head.weight is again.tokens.weight
    with pytest.raises(ValueError, match=r"tensor 'head.weight' of the model is missing"):
        load(GPT(), tmp_path / "slim.safetensors")
    rewrite(tmp_path / "slim.safetensors", {"head.weight": torch.zeros(11, 24)})
    with pytest.raises(ValueError, match=r"'head.weight' is tied to 'tokens.weight'"):
        load(GPT(tied=True), tmp_path / "slim.safetensors")


def test_tensors_that_share_memory_without_being_tied_are_written_apart(tmp_path):
    network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 3, bias=False))
    memory = torch.arange(15.0)
    network[0].weight.data, network[1].weight.data = memory[:6].view(3, 2), memory[6:].view(3, 3)
    save(network, tmp_path / "slim.safetensors")
    assert load_file(tmp_path / "slim.safetensors")["1.weight"].flatten().tolist() == list(range(6, 15))


def refused(path, message, make=residual, example_input=None):
    """Assert that a file is refused in these words and the model stays what it was."""
    fresh = make()
    state = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    described = repr(fresh)
    with pytest.raises(ValueError, match=message) as caught:
        load(fresh, path, example_input)
    assert str(path) in str(caught.value)
    assert repr(fresh) == described
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state_dict().items())


WEIGHT = "1.conv_1.weight"  # (4, 5, 3, 3) in the file, (6, 8, 3, 3) in the model


@pytest.mark.parametrize(("tensors", "message"), [
    ({WEIGHT: None}, "tensor '1.conv_1.weight' of the model is missing"),
    ({"extra": torch.ones(1)}, "tensor 'extra' is none of Sequential's"),
    ({WEIGHT: torch.ones(7, 5, 3, 3)}, r"'1.conv_1.weight' is wider than .*: \[7, 5, 3, 3\], not \[6, 8, 3, 3\]"),
    ({WEIGHT: torch.ones(4, 5, 9)}, r"'1.conv_1.weight' has shape \[4, 5, 9\], and the model's \[6, 8, 3, 3\]"),
    ({WEIGHT: torch.ones(4, 5, 3, 1)}, r"'1.conv_1.weight' has shape .* slimming leaves its dimension 3"),
    ({WEIGHT: torch.ones(4, 0, 3, 3)}, r"'1.conv_1.weight' has shape \[4, 0, 3, 3\]"),
    ({WEIGHT: torch.ones(4, 5, 3, 3).half()}, "'1.conv_1.weight' is torch.float16, and the model's torch.float32"),
    ({"3.2.bias": torch.ones(3)}, r"channels do not agree: 3.2.weight has 4, 3.2.bias has 3"),
    ({"1.norm_1.running_var": torch.ones(3)}, "1.norm_1.weight has 4, .* 1.norm_1.running_var has 3"),
    ({"1.norm_1.num_batches_tracked": torch.ones(1, dtype=torch.int64)}, "'1.norm_1.num_batches_tracked' has shape"),
])  # fmt: skip
def test_tensors_that_do_not_fit_are_refused_by_name(saved, tensors, message):
    rewrite(saved[1], tensors)
    refused(saved[1], message)


def test_widths_that_do_not_agree_between_layers_are_refused_where_an_example_tells(saved):
    rewrite(saved[1], {WEIGHT: torch.ones(3, 5, 3, 3)})
    refused(saved[1], r"'1.conv_2.weight' has 4 channels in dimension 1; expected are 3|'1.norm_1.weight' has 4 .* 3",
            example_input=torch.randn(1, 3, 8, 8))  # fmt: skip


def test_layer_norms_and_embeddings_keep_their_widths(tmp_path):
    save(GPT(), tmp_path / "dense.safetensors")
    rewrite(tmp_path / "dense.safetensors", {"norm.weight": torch.ones(20)})
    refused(tmp_path / "dense.safetensors", r"'norm.weight' has shape \[20\].* slimming leaves its dimension 0", GPT)


@pytest.mark.parametrize(("metadata", "message"), [
    ({"format": None}, "format None is not 'lightning-dynprune slim'"),
    ({"format": "pt"}, "format 'pt' is not"),
    ({"version": "2"}, "version '2' is unknown; this release reads version '1'"),
    ({"attributes": None}, "attributes are not JSON"),
    ({"attributes": "{"}, "attributes are not JSON"),
    ({"attributes": "[" * 100_000}, "attributes are not JSON"),
    ({"attributes": "[]"}, "attributes are a list, not a mapping"),
    ({"attributes": '{"a": "' + "x" * 2**20 + '"}'}, "attributes take 1048585 bytes; at most 1048576 are accepted"),
    ({"attributes": '{"blocks.0.heads": "2"}'}, "attribute 'blocks.0.heads': 2 is not accepted; give 1 to 3"),
    ({"attributes": '{"blocks.0.heads": true}'}, "attribute 'blocks.0.heads': True is not accepted"),
    ({"attributes": '{"blocks.0.heads": 0}'}, "attribute 'blocks.0.heads': 0 is not accepted"),
    ({"attributes": '{"blocks.0.heads": 4}'}, "attribute 'blocks.0.heads': 4 is not accepted"),
    ({"attributes": '{"blocks.0.heads": 1e3}'}, "attribute 'blocks.0.heads': 1000.0 is not accepted"),
    ({"attributes": '{"blocks.0.training": 1}'}, "attribute 'blocks.0.training' is not a number of heads"),
    ({"attributes": '{"blocks.0.__class__": 1}'}, "attribute 'blocks.0.__class__' is not a number of heads"),
    ({"attributes": '{"blocks.7.heads": 1}'}, "attribute 'blocks.7.heads' is not a number of heads"),
    ({"attributes": '{"blocks.0.heads": 1}'}, "heads do not agree: 'blocks.0.project.weight' reads 16 channels"),
    ({"attributes": "{}"}, "heads do not agree: 'blocks.0.project.weight' reads 16 channels"),
])  # fmt: skip
def test_metadata_that_are_another_files_or_hostile_are_refused(tmp_path, metadata, message):
    save(slimmed(GPT, torch.randint(11, (2, 7))), tmp_path / "slim.safetensors")
    rewrite(tmp_path / "slim.safetensors", **metadata)
    refused(tmp_path / "slim.safetensors", message, GPT)


@given(st.floats(0, 0.999))
@settings(max_examples=30, deadline=None)
def test_a_truncated_file_is_refused(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("saved") / "slim.safetensors"
    save(residual(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, "is not a complete safetensors file")


def test_a_model_that_does_not_run_with_the_files_widths_is_put_back(saved):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.shift = residual(), torch.ones(8, 1, 1)

        def forward(self, x):
            return self.net[3](self.net[2](self.net[1](self.net[0](x) + self.shift)))

    rewritten = {f"net.{name}": tensor for name, tensor in load_file(saved[1]).items()}
    rewrite(saved[1], {**dict.fromkeys(load_file(saved[1])), **rewritten})
    fresh = Shifted()
    state = copy.deepcopy(fresh.state_dict())
    with pytest.raises(ValueError, match=r"0.0.weight' has 5 channels in dimension 0; expected are 8"):
        load(fresh, saved[1], torch.randn(1, 3, 8, 8))
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state_dict().items())


def test_what_is_no_tensor_cannot_be_saved(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(ValueError, match="'_extra_state' is not a parameter or buffer"):
        save(Extra(2, 2), tmp_path / "slim.safetensors")
    assert not list(tmp_path.iterdir())


class Decoder(nn.Module):
    """Grouped-query attention, and experts that each sample chooses by its sign."""

    def __init__(self):
        super().__init__()
        self.attention = GroupedQuery(heads=6, key_heads=3)
        self.experts = Experts()

    def forward(self, x):
        x = x + self.attention(x)["output"]
        return x + self.experts(x)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.gate_up_proj = nn.Parameter(torch.randn(2, 12, 8, generator=generator))
        self.down_proj = nn.Parameter(torch.randn(2, 8, 6, generator=generator))
        self.intermediate_dim = 6

    def forward(self, x):
        chosen = (x[..., 0] > 0).long()
        gate, up = (self.gate_up_proj[chosen] @ x.unsqueeze(-1)).squeeze(-1).split(self.intermediate_dim, dim=-1)
        return (self.down_proj[chosen] @ (gate.relu() * up).unsqueeze(-1)).squeeze(-1)


@pytest.fixture
def decoder(tmp_path):
    network, x = Decoder(), torch.randn(2, 5, 8)
    with torch.no_grad():
        network.attention.o_proj.weight[:, 4:8] = 0
        network.attention.o_proj.weight.view(8, 3, 2, 2)[:, :, 1] = 0
        network.experts.down_proj[:, :, 1:3] = 0
    expected = network(x)
    report = slim(network, x)
    assert report.widths == {
        "experts.gate_up_proj": (6, 4),
        "attention.k_proj.weight": (3, 2),
        "attention.q_proj.weight": (2, 1),
    }
    assert network.experts.gate_up_proj.shape == (2, 8, 8)
    assert network.experts.intermediate_dim == 4
    assert torch.allclose(network(x), expected, atol=1e-5)
    save(network, tmp_path / "slim.safetensors")
    return network, x, tmp_path / "slim.safetensors"


@pytest.mark.parametrize("with_example", [False, True])
def test_shared_heads_and_experts_are_rebuilt(decoder, with_example):
    network, x, path = decoder
    again = load(Decoder(), path, x if with_example else None)
    assert again.attention.num_key_value_groups == 1
    assert torch.equal(again(x), network(x))


@pytest.mark.parametrize(("tensors", "message"), [
    ({"experts.down_proj": torch.ones(2, 8, 3)}, r"experts do not agree: the weights of 'experts' are .*\[2, 8, 3\]"),
    ({"experts.down_proj": torch.ones(1, 8, 4)}, r"'experts.down_proj' has shape .* slimming leaves its dimension 0"),
    ({"attention.o_proj.weight": torch.ones(8, 6)}, "'attention.o_proj.weight' reads 6 channels, .* whole heads of 2"),
    ({"attention.v_proj.weight": torch.ones(2, 8)}, "heads do not agree|channels do not agree"),
])  # fmt: skip
def test_shared_heads_and_experts_that_do_not_agree_are_refused(decoder, tensors, message):
    rewrite(decoder[2], tensors)
    refused(decoder[2], message, Decoder)


def test_a_table_of_position_biases_has_as_many_columns_as_there_are_heads(tmp_path):
    network, x = Stack(), torch.randn(2, 5, 8)
    for block in network.block:
        block.o.weight.data[:, 2:4] = 0
    network.block[0].relative_attention_bias.weight.data[:, 1] = 0
    assert slim(network, x).widths == {"block.0.q.weight": (4, 3)}
    save(network, tmp_path / "slim.safetensors")
    assert torch.equal(load(Stack(), tmp_path / "slim.safetensors")(x), network(x))
    rewrite(tmp_path / "slim.safetensors", {"block.0.relative_attention_bias.weight": torch.ones(9, 2)})
    refused(tmp_path / "slim.safetensors", "'block.0.relative_attention_bias.weight' has 2 columns for 3 heads", Stack)


def grouped_network():
    return nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 2, 1))


def test_whole_groups_of_a_grouped_convolution_are_missing_in_the_file_and_nothing_less(tmp_path):
    example, path = torch.randn(1, 1, 5, 5), tmp_path / "slim.safetensors"
    network = slimmed(grouped_network, example)
    assert (network[1].groups, network[1].in_channels, network[1].out_channels) == (2, 4, 6)
    save(network, path)
    again = load(grouped_network(), path, example)
    assert again[1].groups == 2
    assert torch.equal(again(example), network(example))
    rewrite(path, {"1.weight": torch.zeros(5, 2, 3, 3), "1.bias": torch.zeros(5)})
    with pytest.raises(ValueError, match="5 channels of a grouped convolution are no whole groups of 3"):
        load(grouped_network(), path)
