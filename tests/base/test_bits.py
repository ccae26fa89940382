"""Bools made, counted and searched, against torch's own operators."""

from __future__ import annotations

import pytest
import torch

from lightning_dynprune.base import compare_to_bool, count_true, integer_view, true_positions


@pytest.mark.parametrize("size", [0, 1, 7, 8, 13, 1023, 1024, 1025, 300_000])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.9, 1.0])
def test_counts_and_positions_equal_torchs_own(size, share):
    flags = torch.rand(size, generator=torch.Generator().manual_seed(size)) < share
    assert int(count_true(flags)) == int(flags.sum())
    assert torch.equal(true_positions(flags), flags.nonzero().view(-1))


def test_a_view_that_starts_anywhere_is_counted_right():
    flags = torch.rand(5000, generator=torch.Generator().manual_seed(0)) < 0.5
    for start in (0, 3, 8, 1024):
        assert int(count_true(flags[start:])) == int(flags[start:].sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("compare", [torch.gt, torch.ge, torch.eq])
def test_comparisons_equal_torchs_own(dtype, compare):
    values = torch.tensor([-1.0, -0.0, 0.0, 1e-40, 0.5, 1.0, float("inf")], dtype=dtype)
    for bound in (0.0, 0.5, float("inf"), -float("inf")):
        found = compare_to_bool(values, bound, compare)
        assert found.dtype == torch.bool
        assert torch.equal(found, compare(values, bound))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.bfloat16, torch.float32, torch.float64])
def test_an_integer_view_shares_the_memory_and_the_bits(dtype):
    tensor = torch.tensor([0, 1, 1]).to(dtype)
    view = integer_view(tensor)
    assert not view.is_floating_point()
    assert (view.data_ptr(), view.element_size()) == (tensor.data_ptr(), tensor.element_size())
    assert torch.equal(view.view(dtype), tensor)
