"""Outputs are compared, NaN and infinities included."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_dynprune.base import largest_magnitude, max_absolute_difference, max_relative_difference

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([NAN, INF, -INF], [NAN, INF, -INF], 0.0),
        ([NAN], [1.0], INF),
        ([INF], [1.0], INF),
        ([INF], [-INF], INF),
        ([], [], 0.0),
        ([1, 2], [1, 5], 3.0),
        ([True], [False], 1.0),
        ([3j], [4.0], 5.0),
    ],
)
def test_absolute_difference(a, b, expected):
    assert max_absolute_difference(torch.tensor(a), torch.tensor(b)) == expected


def test_relative_difference_is_over_the_largest_value_of_each_tensor():
    expected, found = (
        [torch.tensor([0.0, 4.0]), torch.tensor([100.0])],
        [torch.tensor([1.0, 4.0]), torch.tensor([99.0])],
    )
    assert max_relative_difference(expected, found) == 0.25


def test_relative_difference_of_unlike_shapes_is_infinite_and_of_zeros_absolute():
    assert max_relative_difference([torch.ones(2)], [torch.ones(3)]) == INF
    assert max_relative_difference([torch.ones(2)], []) == INF
    assert max_relative_difference([torch.zeros(2)], [torch.full((2,), 0.5)]) == 0.5


def test_largest_magnitude_counts_finite_values_alone():
    assert largest_magnitude(torch.tensor([1.0, -3.0, NAN, INF])) == 3.0
    assert largest_magnitude(torch.tensor([NAN])) == 0.0
    assert largest_magnitude(torch.tensor([3 + 4j])) == 5.0
