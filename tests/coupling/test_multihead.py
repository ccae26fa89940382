"""Slim attention computes what torch's attention with zero heads does, in every way that it is called."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from lightning_dynprune.coupling import Narrowing, SlimMultiheadAttention, attention_heads, failing_groups, isolated

KEPT = torch.tensor([False, True, True, False])


def narrowed(module):
    """Return a copy whose first and last of four heads are zero, and one without them."""
    groups = attention_heads(module)
    masked, slim = copy.deepcopy(module).eval(), copy.deepcopy(module).eval()
    Narrowing(masked).zero(groups, [KEPT] * len(groups))
    change = Narrowing(slim)
    change.zero(groups, [KEPT] * len(groups))
    change.narrow(groups, [KEPT] * len(groups))
    return masked, slim, change


def randomly(shape=(), seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


CASES = {
    "length first": ({}, {}),
    "batch first": ({"batch_first": True}, {}),
    "no biases": ({"bias": False}, {}),
    "biases of keys and values": ({"add_bias_kv": True}, {"attn_mask": torch.ones(3, 5).triu(1).bool()}),
    "a zero to attend to": ({"add_zero_attn": True, "batch_first": True}, {"attn_mask": randomly((3, 5))}),
    "other widths": ({"kdim": 6, "vdim": 7, "batch_first": True}, {}),
    "padding": ({"batch_first": True}, {"key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])}),
    "numbers as padding": ({"batch_first": True}, {"key_padding_mask": randomly((2, 5))}),
    "causal": ({"batch_first": True}, {"attn_mask": torch.ones(3, 5).triu(1).bool(), "is_causal": True}),
}


@pytest.mark.parametrize(("settings", "arguments"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("need_weights", [False, True])
def test_it_returns_what_torchs_attention_with_zero_heads_does(settings, arguments, need_weights):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 4, **settings)
    shapes = [(2, length, settings.get(width, 8)) for length, width in ((3, ""), (5, "kdim"), (5, "vdim"))]
    inputs = [randomly(shape, seed) for seed, shape in enumerate(shapes)]
    if not settings.get("batch_first"):
        inputs = [tensor.transpose(0, 1) for tensor in inputs]
    masked, slim, change = narrowed(module)
    found, weights = slim(*inputs, need_weights=need_weights, average_attn_weights=False, **arguments)
    expected, maps = masked(*inputs, need_weights=need_weights, average_attn_weights=False, **arguments)
    assert torch.allclose(found, expected, atol=1e-6)
    assert (weights is None) == (not need_weights)
    if need_weights:
        assert torch.allclose(weights, maps[:, KEPT], atol=1e-6)
        mean = slim(*inputs, **arguments)[1]
        assert torch.allclose(mean, weights.mean(1), atol=1e-6)
    assert (type(slim), slim.num_heads, slim.head_dim) == (SlimMultiheadAttention, 2, 2)
    change.undo()
    assert (type(slim), slim.num_heads) == (nn.MultiheadAttention, 4)


def test_a_single_sequence_and_masks_of_each_head_work():
    masked, slim, _ = narrowed(nn.MultiheadAttention(8, 4, batch_first=True))
    x, mask = randomly((3, 8)), randomly((8, 3, 3), 1)
    assert torch.allclose(slim(x, x, x)[0], masked(x, x, x)[0], atol=1e-6)
    assert slim(x, x, x)[1].shape == (3, 3)
    y = randomly((2, 3, 8))
    of_kept = mask.view(2, 4, 3, 3)[:, KEPT].reshape(4, 3, 3)
    assert torch.allclose(slim(y, y, y, attn_mask=of_kept)[0], masked(y, y, y, attn_mask=mask)[0], atol=1e-6)
    with pytest.raises(ValueError, match="give attn_mask too"):
        slim(x, x, x, is_causal=True)


@pytest.mark.parametrize("padding", [None, torch.tensor([[False] * 5, [False] * 3 + [True] * 2])])
def test_encoders_and_decoders_of_torch_run_with_it_in_eval_mode_without_gradients(padding):
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True)
    masked, slim, _ = narrowed(nn.TransformerEncoder(layer, 2))
    x = randomly((2, 5, 8))
    with torch.no_grad():  # torch would take its fused kernels
        found = slim(x, src_key_padding_mask=padding)
        expected = masked(x, src_key_padding_mask=padding)
    attended = torch.ones(2, 5, dtype=torch.bool) if padding is None else ~padding
    assert torch.allclose(found[attended], expected[attended], atol=1e-6)
    masked, slim, _ = narrowed(nn.TransformerDecoderLayer(8, 4, 16, batch_first=True))
    assert torch.allclose(slim(x, x), masked(x, x), atol=1e-6)


class Output(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


def test_it_is_verified_copied_pickled_and_trains():
    module, x = Output(), randomly((2, 5, 8))
    with isolated(module):
        assert failing_groups(module, x, attention_heads(module)) == {}
    assert type(module.attention) is nn.MultiheadAttention
    _, slim, _ = narrowed(module)
    for again in (copy.deepcopy(slim), pickle.loads(pickle.dumps(slim))):
        assert torch.equal(again(x), slim(x))
    slim.train()(x).sum().backward()
    assert slim.attention.in_proj_weight.grad.shape == (12, 8)


def test_a_model_that_returns_mean_weights_over_the_heads_keeps_them():
    x = randomly((2, 5, 8))
    with isolated(module := nn.MultiheadAttention(8, 4, batch_first=True)):
        assert "changes the outputs" in failing_groups(module, (x, x, x), attention_heads(module))["in_proj_weight"]


def test_a_subclass_keeps_its_heads_and_is_named():
    class Own(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x)[0]

    module = nn.Sequential(Own(8, 4))
    with isolated(module):
        failed = failing_groups(module, randomly((2, 5, 8)), attention_heads(module))
    assert list(failed) == ["0.in_proj_weight"]
    assert type(module[0]) is Own
