"""The number of units whose connections come nearest to a number, held against trying all."""

from __future__ import annotations

from itertools import accumulate

import pytest

from lightning_dynprune.selection import nearest_count

SIZES = [[1], [4, 1, 4], [2, 2, 2, 2], [7, 1, 1, 1, 1, 1, 1, 7], [3] * 33]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_it_is_the_first_of_the_nearest(sizes):
    kept = [0, *accumulate(sizes)]
    for half in range(-2, 2 * kept[-1] + 4):
        wanted = half / 2
        best = min(range(len(kept)), key=lambda units: (abs(kept[units] - wanted), units))
        assert nearest_count(len(sizes), kept.__getitem__, wanted) == best, wanted


def test_a_dip_beside_the_nearest_is_looked_at():
    # Rounding over several targets: one unit more keeps one connection less.
    assert nearest_count(5, [0, 2, 4, 6, 5, 9].__getitem__, 5) == 4
    assert nearest_count(5, [0, 2, 4, 3, 8, 9].__getitem__, 3) == 3


def test_few_numbers_are_tried():
    tried = []
    nearest_count(2**20, lambda units: tried.append(units) or units, 1000)
    assert len(set(tried)) < 30


def test_without_units_there_is_nothing_to_keep():
    assert nearest_count(0, lambda units: 0, 5.0) == 0
