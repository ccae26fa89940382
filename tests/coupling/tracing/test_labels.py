"""Labels of tensors: which channel each entry belongs to."""

from __future__ import annotations

import pytest
import torch
from torch import tensor

from lightning_dynprune.coupling.tracing.labels import Labels, combined, constant, labels_of, united
from lightning_dynprune.coupling.tracing.units import FIXED, ChannelUnits

X = labels_of(tensor([0, 1, 2]).view(1, 3, 1), (2, 3, 4))
Y = labels_of(tensor([3, 4, 5]).view(1, 3, 1), (2, 3, 4))


def test_labels_have_size_one_where_they_do_not_differ():
    labels = labels_of(tensor([[0, 1], [0, 1]]), (2, 2))
    assert labels.numbers.tolist() == [[0, 1]]
    assert labels.sized == (True, True)
    assert labels.varies() == [1]


@pytest.mark.parametrize(("other", "sets", "refused"), [
    (Y, [0, 1, 2, 0, 1, 2], set()),  # a sum
    (labels_of(tensor([3]).view(1, 1, 1), (2, 1, 4)), [0, 1, 2, 3, 4, 5], {3}),  # one channel that scales all
    (constant(FIXED, (2, 1, 4)), [0, 1, 2, 3, 4, 5], set()),  # a mask without channels
    (constant(FIXED, (3, 1)), [0, 1, 2, 3, 4, 5], {0, 1, 2}),  # as many values as channels
    (labels_of(tensor([3, 4, 5, 3]).view(1, 1, 4), (1, 1, 4)), [0, 1, 2, 3, 4, 5], {0, 1, 2, 3, 4, 5}),  # a product
])  # fmt: skip
def test_what_meets_in_a_sum_belongs_together(other, sets, refused):
    units = ChannelUnits(6)
    result = combined(units, [X, other], 3, "add")
    units.retain(result.numbers[result.numbers < 0], "")
    assert units.find(torch.arange(6)).tolist() == sets
    assert set(units.retained()) == refused


def test_a_value_broadcast_along_the_channels_leaves_them_apart_and_what_it_mixes_is_retained():
    units = ChannelUnits(6)
    mean = constant(units.mixture([tensor([3, 4])], "mean"), (2, 1, 4))
    assert combined(units, [X, mean], 3, "mul").numbers.flatten().tolist() == [0, 1, 2]
    assert units.retained() == dict.fromkeys((3, 4), "mean mixes them with one another")


def test_channels_at_the_same_position_are_merged():
    units = ChannelUnits(4)
    assert united(units, tensor([[0, 1], [2, 3]]), 1, "read").tolist() == [0, 1]
    assert units.find(torch.arange(4)).tolist() == [0, 1, 0, 1]


def test_an_expanded_dimension_is_no_size_of_its_own():
    wide = Labels(constant(FIXED, (2, 1, 4)).numbers, (True, False, True))
    units = ChannelUnits(6)
    combined(units, [X, wide], 3, "mul")
    assert units.retained() == {}
