"""Every kernel computes what its layer computes, and gives the layer back."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_dynprune.deploy.kernels import CSR, KERNELS, Block, BlockBatched, BlockRows, Slim, UnsuitableLayerError
from lightning_dynprune.deploy.kernels import block as block_file
from lightning_dynprune.deploy.kernels import block_batched as block_batched_file

BLOCKS = [(name, {"height": height}) for name in ("block", "block_batched", "block_rows") for height in (8, 16, 32, 64)]
ON_CPU = [*BLOCKS, ("csr", {}), ("slim", {})]


def layer_of(weight: Tensor, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias, dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    return layer


def sparse_weight(outputs: int, inputs: int, height: int, kept: float, seed: int, dtype=torch.float32) -> Tensor:
    """Return a weight with some blocks, some inputs and some outputs left."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.rand(-(-outputs // height), inputs, generator=generator) < kept
    mask = blocks.repeat_interleave(height, 0)[:outputs]
    mask[:, torch.rand(inputs, generator=generator) < 0.3] = False
    mask[torch.rand(outputs, generator=generator) < 0.2] = False
    return (torch.randn(outputs, inputs, generator=generator) * mask).to(dtype)  # with zeros of both signs


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


@pytest.mark.parametrize(("name", "setting"), ON_CPU, ids=lambda p: str(p))
@settings(max_examples=25, deadline=None)
@given(
    outputs=st.integers(1, 140),
    inputs=st.integers(1, 40),
    height=st.sampled_from([1, 8, 32]),
    kept=st.sampled_from([0.0, 0.1, 0.4]),
    leading=st.sampled_from([(), (1,), (2,), (7,), (1, 1), (2, 3), (0,), (4, 0)]),
    bias=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_a_kernel_computes_its_layer_and_gives_it_back(
    name, setting, outputs, inputs, height, kept, leading, bias, seed
):
    layer = layer_of(sparse_weight(outputs, inputs, height, kept, seed, torch.float64), bias)
    try:
        kernel = KERNELS[name](layer, **setting)
    except UnsuitableLayerError:
        return  # what is refused is tested below
    x = torch.randn(*leading, inputs, dtype=torch.float64)
    got, expected = kernel(x), layer(x)
    assert got.shape == expected.shape
    assert got.is_contiguous()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    back = kernel.dense()
    assert torch.equal(bits(back.weight), bits(layer.weight))
    assert (back.bias is None) == (layer.bias is None)
    assert layer.bias is None or torch.equal(bits(back.bias), bits(layer.bias))


@pytest.mark.parametrize(("name", "setting"), ON_CPU, ids=lambda p: str(p))
def test_an_input_in_another_layout_gives_the_same(name, setting):
    layer = layer_of(sparse_weight(96, 40, 8, 0.3, 1))
    kernel = KERNELS[name](layer, **setting)
    x = torch.randn(40, 6).t()
    assert not x.is_contiguous()
    torch.testing.assert_close(kernel(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "setting"), ON_CPU, ids=lambda p: str(p))
def test_negative_zeros_and_nans_come_back(name, setting):
    weight = torch.zeros(64, 6)
    weight[0, 1], weight[40, 1], weight[5, 3] = -0.0, float("nan"), 1e-45
    kernel = KERNELS[name](layer_of(weight), **setting)
    assert torch.equal(bits(kernel.dense().weight), bits(weight))


@pytest.mark.parametrize(("name", "setting"), ON_CPU, ids=lambda p: str(p))
def test_the_layer_comes_back_with_its_flags_and_nothing_is_shared(name, setting):
    layer = layer_of(sparse_weight(64, 20, 8, 0.3, 2)).eval()
    layer.bias.requires_grad_(False)
    before = layer.weight.detach().clone()
    kernel = KERNELS[name](layer, **setting)
    layer.weight.data.fill_(1.0)
    layer.bias.data.fill_(1.0)
    back = kernel.dense()
    assert torch.equal(back.weight, before)
    assert torch.equal(kernel.weight, before)
    assert (back.weight.requires_grad, back.bias.requires_grad, back.training) == (True, False, False)
    assert not (kernel.bias == 1.0).any()
    back.weight.data.fill_(3.0)
    assert torch.equal(kernel.weight, before)


@pytest.mark.parametrize(("name", "setting"), ON_CPU, ids=lambda p: str(p))
def test_a_kernel_copies_converts_and_loads_as_modules_do(name, setting):
    layer = layer_of(sparse_weight(64, 20, 8, 0.3, 3))
    kernel = KERNELS[name](layer, **setting)
    x = torch.randn(5, 20)
    assert torch.equal(copy.deepcopy(kernel)(x), kernel(x))
    wide = copy.deepcopy(kernel).double()
    torch.testing.assert_close(wide(x.double()), layer.double()(x.double()), rtol=1e-12, atol=1e-12)
    other = KERNELS[name](layer_of(sparse_weight(64, 20, 8, 0.3, 3) * 2), **setting)
    other(x)
    other.load_state_dict(kernel.state_dict())
    assert torch.equal(other(x), kernel(x))


@pytest.mark.parametrize(("name", "setting"), ON_CPU, ids=lambda p: str(p))
def test_negative_zeros_are_not_computed_with(name, setting):
    weight = torch.full((64, 10), -0.0)
    weight[:, :2] = 1.0
    with_signs, without = (KERNELS[name](layer_of(w), **setting) for w in (weight, weight + 0.0))
    sizes = [sum(b.numel() for key, b in k.named_buffers() if key != "negative_zeros") for k in (with_signs, without)]
    assert sizes[0] == sizes[1] < 64 * 10
    assert with_signs.negative_zeros.numel() == 64 * 10 / 8  # a bit each
    assert without.negative_zeros is None


def test_blocks_hold_the_kept_values_alone():
    weight = torch.zeros(16, 3)
    weight[8:, 2] = torch.arange(8.0)  # a zero within a kept block is stored
    weight[0, 0] = 5.0
    kernel = Block(layer_of(weight), height=8)
    assert kernel.table.tolist() == [[5.0] + [0.0] * 7, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]
    assert kernel.columns.tolist() == [0, 2]
    assert kernel.starts.tolist() == [0, 1]


def test_indices_are_int32():
    layer = layer_of(sparse_weight(64, 20, 8, 0.3, 4))
    assert {CSR(layer).columns.dtype, CSR(layer).row_starts.dtype} == {torch.int32}
    assert CSR(layer)._csr().crow_indices().dtype == torch.int32
    assert {Block(layer).columns.dtype, Block(layer).numbers.dtype, Block(layer).starts.dtype} == {torch.int32}


def test_slim_keeps_the_inputs_and_outputs_in_use():
    weight = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 2.0, 3.0]])
    kernel = Slim(layer_of(weight))
    assert kernel.small.tolist() == [[1.0, 0.0], [2.0, 3.0]]
    assert kernel.inputs.tolist() == [1, 2]
    assert kernel.outputs.tolist() == [0, 2]
    x = torch.tensor([[float("nan"), 1.0, 1.0]])  # an input that nobody reads
    assert torch.equal(kernel(x)[0] - kernel.bias, torch.tensor([1.0, 0.0, 5.0]) + kernel.bias - kernel.bias)


@pytest.mark.parametrize("kernel", [Block, BlockBatched], ids=["block", "block_batched"])
def test_a_large_batch_is_computed_in_pieces(kernel, monkeypatch):
    for file in (block_file, block_batched_file):
        monkeypatch.setattr(file, "_MAX_GATHERED", 100)
    layer = layer_of(sparse_weight(64, 20, 8, 0.3, 5))
    made, x = kernel(layer, height=8), torch.randn(37, 20)
    largest = []
    method = "_bags" if kernel is Block else "_products"
    piece = getattr(made, method)
    monkeypatch.setattr(made, method, lambda rows: largest.append(len(rows)) or piece(rows))
    torch.testing.assert_close(made(x), layer(x), rtol=1e-5, atol=1e-5)
    assert sum(largest) == 37
    assert max(largest) < 37


@pytest.mark.parametrize("kernel", [Block, BlockBatched, BlockRows])
def test_blocks_are_refused_where_nearly_all_are_kept(kernel):
    layer = layer_of(torch.ones(64, 10))
    layer.weight.data[:, 0] = 0.0  # 90 % kept may be tried
    kernel(layer, height=32)
    layer.weight.data[40, 0] = 1.0  # and now 95 % of the 32 x 1 blocks
    with pytest.raises(UnsuitableLayerError, match="95 % of the 32 x 1 blocks are kept"):
        kernel(layer, height=32)


@pytest.mark.parametrize("height", [0, -8, 7, 128, 2**40, True, 8.5, "8", None])
def test_a_height_out_of_range_is_refused(height):
    with pytest.raises(ValueError, match=r"height=.* is not accepted; give one of 8, 16, 32, 64"):
        Block(layer_of(torch.zeros(64, 10)), height=height)


def test_only_heights_that_skip_more_than_a_taller_one_are_tried():
    weight = sparse_weight(128, 200, 32, 0.2, 6).abs() + 0.0
    weight = (weight.view(4, 32, 200).sum(1, keepdim=True) > 0).float().expand(4, 32, 200).reshape(128, 200)
    assert Block.settings(layer_of(weight)) == [{"height": 64}, {"height": 32}]
    dense = torch.ones(64, 10)
    with pytest.raises(UnsuitableLayerError, match="100 % of the 8 x 1 blocks are kept"):
        Block.settings(layer_of(dense))


def test_csr_and_slim_say_why_they_refuse():
    with pytest.raises(UnsuitableLayerError, match="70 % of the connections are kept"):
        CSR(layer_of(torch.tensor([[1.0] * 7 + [0.0] * 3])))
    with pytest.raises(UnsuitableLayerError, match="no input and no output is wholly zero"):
        Slim(layer_of(torch.eye(3)))


def test_two_of_four_is_refused_off_cuda():
    with pytest.raises(UnsuitableLayerError, match="2:4 runs on CUDA only, the layer is on cpu"):
        KERNELS["semi_structured"](layer_of(torch.zeros(64, 64)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_of_four_computes_its_layer_and_gives_it_back_on_cuda():
    weight = torch.randn(256, 256).view(-1, 4)
    weight[:, :2] = 0.0
    layer = layer_of(weight.view(256, 256)).cuda().half()
    kernel = KERNELS["semi_structured"](layer)
    x = torch.randn(64, 256, device="cuda", dtype=torch.half)
    torch.testing.assert_close(kernel(x), layer(x), rtol=1e-2, atol=1e-2)
    assert torch.equal(bits(kernel.dense().weight), bits(layer.weight))
    layer.weight.data[0, :3] = 1.0
    with pytest.raises(UnsuitableLayerError, match="more than two of four"):
        KERNELS["semi_structured"](layer)
