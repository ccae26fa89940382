"""Multiply-adds against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_dynprune.coupling import CouplingError
from lightning_dynprune.deploy.kernels import CSR, Block, BlockBatched, BlockRows
from lightning_dynprune.deploy.measurement.macs import count_macs
from tests.networks import GPT


class Functional(nn.Module):
    """Computes by functions alone: no layer anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.filters, self.matrix = nn.Parameter(torch.ones(6, 2, 3, 3)), nn.Parameter(torch.ones(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filters, stride=2, groups=2).mean((2, 3)) @ self.matrix


class OwnConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class Attention(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


CASES = {
    "a linear layer": (nn.Linear(6, 8), (5, 6), 5 * 6 * 8),
    "a linear layer, without bias, on three dimensions": (nn.Linear(6, 8, bias=False), (2, 3, 6), 2 * 3 * 6 * 8),
    "a convolution": (nn.Conv2d(3, 8, 3, stride=2, padding=1), (2, 3, 8, 8), 2 * 4 * 4 * 8 * 3 * 9),
    "a depthwise convolution": (nn.Conv2d(4, 4, 3, groups=4), (1, 4, 5, 5), 3 * 3 * 4 * 9),
    "a subclass of a convolution": (OwnConv(3, 8, 3), (1, 3, 4, 4), 4 * 4 * 8 * 3 * 9),
    "a transposed convolution": (nn.ConvTranspose2d(4, 3, 2, stride=2), (1, 4, 5, 5), 5 * 5 * 4 * 3 * 4),
    "a convolution in one dimension": (nn.Conv1d(2, 3, 4), (1, 2, 10), 7 * 3 * 2 * 4),
    # 4 x 4 places of 6 filters that see one channel each
    "functions without layers": (Functional(), (1, 4, 9, 9), 4 * 4 * 6 * 2 * 9 + 6 * 5),
    # four gates of 5 units, from 3 inputs and 5 states, 7 steps of 2 sequences
    "a recurrent layer": (nn.LSTM(3, 5), (7, 2, 3), 7 * 2 * 4 * 5 * (3 + 5)),
    # queries, keys, values and output; scores and their sums; the two layers of the feed-forward
    "torch's transformer layer": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (2, 3, 8),
        2 * (3 * 8 * 32 + 2 * 3 * 3 * 8 + 3 * 2 * 8 * 16),
    ),
    "an elementwise network": (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), (2, 3, 4, 4), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_multiply_adds_are_those_worked_out_by_hand(case: str) -> None:
    model, shape, expected = CASES[case]
    assert count_macs(model.eval(), torch.randn(shape)) == expected


def test_attention_counts_its_scores_and_its_sums() -> None:
    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 6)
    assert count_macs(Attention(), (q, k, v)) == 2 * 3 * 5 * 7 * (4 + 6)


def test_attention_counts_in_a_whole_network() -> None:
    width, length, depth = 24, 7, 2
    layer = length * (3 + 1 + 4 + 4) * width * width + 2 * length * length * width
    assert count_macs(GPT(), torch.randint(11, (2, length))) == 2 * (depth * layer + length * width * 11)


def test_bilinear_counts_both_products() -> None:
    model = nn.Bilinear(3, 4, 5)
    assert count_macs(model, (torch.randn(2, 3), torch.randn(2, 4))) == 2 * 5 * (3 * 4 + 4)


def layer_with_blocks() -> nn.Linear:
    layer = nn.Linear(10, 32)
    layer.weight.data[:16, 3:] = 0  # 3 blocks of 16 in the upper rows, 2 in the lower
    layer.weight.data[16:, :8] = 0
    return layer


@pytest.mark.parametrize("kernel", [Block, BlockRows])
def test_block_kernels_count_the_blocks_they_keep(kernel: type) -> None:
    assert count_macs(kernel(layer_with_blocks(), height=16), torch.randn(4, 10)) == 4 * (3 + 2) * 16


def test_the_batched_block_kernel_counts_what_it_fills_up() -> None:
    assert count_macs(BlockBatched(layer_with_blocks(), height=16), torch.randn(4, 10)) == 4 * (3 + 3) * 16


def test_csr_counts_the_entries_it_stores_for_one_input_and_for_many() -> None:
    layer = nn.Linear(6, 8)
    layer.weight.data.zero_()[torch.arange(7), torch.tensor([0, 1, 2, 3, 4, 5, 0])] = 1.0
    assert count_macs(CSR(layer), torch.randn(1, 6)) == 7
    assert count_macs(CSR(layer), torch.randn(5, 6)) == 5 * 7


def test_a_dense_layer_counts_its_zeros() -> None:
    layer = nn.Linear(6, 8)
    layer.weight.data.zero_()
    assert count_macs(layer, torch.randn(1, 6)) == 48


@pytest.mark.parametrize("layout", ["to_sparse_csr", "to_sparse_coo", "to_sparse_csc"])
def test_a_sparse_matrix_counts_on_either_side(layout: str) -> None:
    class Product(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left @ right

    sparse = getattr(torch.eye(4), layout)()
    assert count_macs(Product(), (sparse, torch.randn(4, 3))) == 4 * 3
    assert count_macs(Product(), (torch.randn(3, 4), sparse)) == 4 * 3


def test_counting_leaves_modes_buffers_and_fused_paths_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, torch.randn(5, 3))
    assert model[2].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch._C._get_mkldnn_enabled() == torch.backends.mkldnn.is_available()


def test_an_input_that_does_not_fit_is_refused_naming_the_module() -> None:
    with pytest.raises(CouplingError, match=r"module '0' \(Linear\) raised"):
        count_macs(nn.Sequential(nn.Linear(3, 4)), torch.randn(5, 7))
