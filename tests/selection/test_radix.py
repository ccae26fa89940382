"""The k-th smallest of numbers spread over ranks, held against a sort."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_dynprune.distributed import Ranks
from lightning_dynprune.selection.radix import kth_largest, kth_largest_each, kth_smallest, kth_smallest_each
from tests.distributed.threads import in_threads

EDGES = {
    1: [0, 1, 1],
    11: [0, 1, 2**10 - 1, 2**10, 2**11 - 1],
    12: [0, 2**11 - 1, 2**11, 2**12 - 1, 5],
    32: [0, 5, 70_000, 2**22, 2**31 - 1, 2**31, 2**32 - 1, 5],
    63: [0, 2**54, 2**55, 2**62, 2**63 - 1, 7],
    64: [-(2**63), -(2**55), -(2**44), -1, 0, 1, 2**44, 2**55, 2**63 - 1, -1],
}


@pytest.mark.parametrize("bits", EDGES)
def test_every_rank_of_integers_at_the_edges_of_digits(bits):
    numbers = EDGES[bits]
    lots = [lambda: iter([torch.tensor(numbers[:2]), torch.tensor([numbers[2:]])])] * len(numbers)
    ks = list(range(1, len(numbers) + 1))
    assert kth_smallest_each(ks, lots, bits, Ranks()) == sorted(numbers)
    assert kth_smallest(2, lots[0], bits, Ranks()) == sorted(numbers)[1]


def test_ranks_find_one_number_among_those_of_all_in_a_message_for_each_digit():
    held = [[3, 2**20], [2**31, 3], []]

    def find(ranks):
        pieces = [lambda: [torch.tensor(held[ranks.rank], dtype=torch.int64)]] * 4
        return kth_smallest_each([1, 2, 3, 4], pieces, 32, ranks), ranks.messages

    assert in_threads(3, find) == [([3, 3, 2**20, 2**31], 3)] * 3


FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, math.inf, -math.inf, 0.1, 3.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_rank_of_floats(dtype):
    values = torch.tensor(FLOATS, dtype=dtype)
    expected = values.sort(descending=True).values.tolist()
    size = len(FLOATS)
    found = kth_largest_each(range(1, size + 1), [[values[:3], values[3:]]] * size, [size] * size, Ranks(), dtype)
    assert found == expected
    assert kth_largest(3, [values], size, Ranks(), dtype) == expected[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("zeros", [(0.0, -0.0), (-0.0, 0.0)])
def test_both_zeros_are_one_number_and_it_is_plus_zero(zeros, dtype):
    values = torch.tensor([*zeros, -1.0], dtype=dtype)
    found = kth_largest_each([1, 2, 3], [[values]] * 3, [3] * 3, Ranks(), dtype)
    assert [math.copysign(1.0, number) for number in found] == [1.0, 1.0, -1.0]
    assert found == [0.0, 0.0, -1.0]


def test_values_of_another_dtype_are_compared_in_the_one_asked_for():
    values = [torch.tensor([1.0 + 1e-12, 1.0], dtype=torch.float64)]
    assert kth_largest(1, values, 2, Ranks(), torch.float32) == 1.0
    assert kth_largest(1, values, 2, Ranks(), torch.float64) == 1.0 + 1e-12
    assert kth_largest(1, [torch.tensor([2.5], dtype=torch.bfloat16)], 1, Ranks(), torch.float32) == 2.5
