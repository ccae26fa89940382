"""Masks: applied, written, packed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_dynprune.masks import CHUNK_SIZE, MaskSet, pack_bits, unpack_bits
from lightning_dynprune.targets import Target


def mask_set(weight: torch.Tensor) -> tuple[MaskSet, nn.Parameter]:
    parameter = nn.Parameter(weight)
    return MaskSet([Target("w", parameter)]), parameter


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_apply_leaves_plus_zero_whatever_was_there(dtype):
    weight = torch.tensor([-1.0, 2.0, math.nan, -math.inf, -0.0, 3.0], dtype=dtype)
    masks, parameter = mask_set(weight)
    masks.write(0, [torch.tensor([False, True, False, False, False, True])])
    masks.apply()
    assert parameter.tolist() == [0.0, 2.0, 0.0, 0.0, 0.0, 3.0]
    assert not parameter.detach().view(torch.uint8).view(6, -1)[[0, 2, 3, 4]].any()


def test_apply_reaches_past_the_first_piece():
    masks, parameter = mask_set(torch.ones(2 * CHUNK_SIZE + 3))
    keep = torch.rand(2 * CHUNK_SIZE + 3, generator=torch.Generator().manual_seed(0)) < 0.3
    assert masks.write(0, torch.split(keep, 1000)) == (int((~keep).sum()), 0)
    masks.apply()
    assert torch.equal(parameter != 0, keep)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_masks_follow_the_layout_and_flat_order_stays_row_major(layout):
    weight = torch.arange(1.0, 25.0).view(2, 3, 2, 2).contiguous(memory_format=layout)
    masks, parameter = mask_set(weight)
    keep = torch.arange(24) % 3 == 0
    masks.write(0, [keep[:10], keep[10:]])
    masks.apply()
    assert masks.tensors[0].stride() == parameter.stride()
    assert torch.equal((parameter != 0).reshape(-1), keep)


def test_apply_follows_a_parameter_whose_memory_moved():
    masks, parameter = mask_set(torch.ones(8))
    masks.write(0, [torch.arange(8) < 4])
    masks.apply()
    parameter.data = torch.ones(8)
    masks.apply()
    assert int((parameter != 0).sum()) == 4


def test_write_counts_what_was_dropped_and_grown():
    masks, _ = mask_set(torch.ones(4))
    assert masks.write(0, [torch.tensor([True, False]), torch.tensor([False, True])]) == (2, 0)
    assert masks.write(0, [torch.tensor([True, True, False, False])]) == (1, 1)
    assert masks.kept == [2]
    assert masks.sparsity == 0.5


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, CHUNK_SIZE + 5])
def test_bits_round_trip(n):
    mask = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.5
    packed = pack_bits(mask)
    assert packed.dtype == torch.uint8
    assert packed.numel() == (n + 7) // 8
    assert torch.equal(unpack_bits(packed, n, "w"), mask)


def test_bits_are_written_lowest_first():
    assert pack_bits(torch.tensor([True, False, True, False, False, False, False, False, True])).tolist() == [5, 1]


def test_bits_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ValueError, match=r"mask of fc: .* does not hold 9 connections"):
        unpack_bits(torch.zeros(1, dtype=torch.uint8), 9, "fc")
    with pytest.raises(ValueError, match="mask of fc: bits are set past its 3 connections"):
        unpack_bits(torch.tensor([8], dtype=torch.uint8), 3, "fc")


def test_no_mask_changes_when_one_of_them_does_not_fit():
    a, b = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))
    masks = MaskSet([Target("a", a), Target("b", b)])
    with pytest.raises(ValueError, match="mask of b"):
        masks.unpack({"a": torch.tensor([1], dtype=torch.uint8), "b": torch.zeros(2, dtype=torch.uint8)})
    assert masks.tensors[0].all()


def test_mask_zeroes_a_tensor_where_pruned():
    masks, _ = mask_set(torch.ones(3))
    masks.write(0, [torch.tensor([True, False, True])])
    slot = torch.tensor([1.0, -5.0, 2.0])
    masks.zero_pruned(0, slot)
    assert slot.tolist() == [1.0, 0.0, 2.0]
