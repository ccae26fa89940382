"""Sets of channels that can only be removed together."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from lightning_dynprune.coupling.tracing.units import FIXED, ChannelUnits


def test_merged_channels_have_the_smallest_number_of_their_set():
    units = ChannelUnits(6)
    units.union(tensor([4, 2]), tensor([2, 5]))
    assert units.find(torch.arange(6)).tolist() == [0, 1, 2, 3, 2, 2]
    assert units.find(tensor([FIXED, 4])).tolist() == [FIXED, 2]


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_sets_are_the_connected_components_of_the_pairs(pairs, calls):
    units, expected = ChannelUnits(20), list(range(20))
    for start in range(calls):
        chosen = pairs[start::calls]
        units.union(tensor([a for a, _ in chosen]).long(), tensor([b for _, b in chosen]).long())
        for a, b in chosen:
            low, high = sorted((expected[a], expected[b]))
            expected = [low if root == high else root for root in expected]
    assert units.find(torch.arange(20)).tolist() == expected


def test_a_mixture_that_is_needed_refuses_all_its_channels_with_its_origin():
    units = ChannelUnits(5)
    inner = units.mixture([tensor([0, 1])], "Softmax 'a'")
    outer = units.mixture([tensor([inner, 3])], "Softmax 'b'")
    assert units.retained() == {}
    units.retain(tensor([outer, 4]), "the model's outputs")
    reason = "Softmax 'b' mixes them with one another"
    assert units.retained() == {4: "the model's outputs", 0: reason, 1: reason, 3: reason}


def test_the_first_reason_counts_for_the_whole_set():
    units = ChannelUnits(3)
    units.retain(tensor([2]), "first")
    units.retain(tensor([1]), "second")
    units.union(tensor([1]), tensor([2]))
    assert units.retained() == {1: "first"}


def test_a_mixture_of_one_mixture_is_that_mixture():
    units = ChannelUnits(2)
    inputs = units.mixture([], "the model's inputs", mixes=False)
    assert units.mixture([tensor([inputs, inputs])], "Softmax") == inputs
    assert units.origin(inputs) == "the model's inputs"
    assert units.origin(units.mixture([tensor([0])], "Softmax")) == "what Softmax mixes"
