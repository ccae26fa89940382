"""The groups that are pruned: those that targets alone make."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.coupling import Axis, Group
from lightning_dynprune.engine.coupled import CoupledMasks
from lightning_dynprune.masks import MaskSet
from lightning_dynprune.patterns import Channel
from lightning_dynprune.targets import Target

EACH = torch.arange(2).view(2, 1)


def two_makers() -> nn.ModuleDict:
    """Return two layers whose outputs are summed, so that both make each unit, and one that reads the sum."""
    return nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2), "c": nn.Linear(2, 1)})


def group() -> Group:
    made = tuple(Axis(f"{name}.{local}", 0, True, EACH) for name in "ab" for local in ("weight", "bias"))
    return Group("a.weight", 2, (*made, Axis("c.weight", 1, False, EACH)))


def coupled(net: nn.Module, *names: str) -> CoupledMasks:
    masks = MaskSet([Target(name, net.get_parameter(name)) for name in names])
    return CoupledMasks(net, [group()], masks, Channel(), [])


def test_a_group_made_by_targets_alone_is_pruned():
    units = coupled(two_makers(), "a.weight", "b.weight", "c.weight")
    assert [one.name for one in units.groups] == ["a.weight"]
    assert sorted(member.axis.name for member in units.members) == ["a.bias", "b.bias"]


@pytest.mark.parametrize("name", ["a.weight", "b.weight"])
def test_a_group_that_a_weight_outside_the_targets_makes_too_is_left_alone(name):
    with pytest.raises(ValueError, match="no unit of the model is made by targets alone"):
        coupled(two_makers(), name, "c.weight")


def test_a_unit_that_goes_takes_its_rows_biases_and_columns():
    net = two_makers()
    units = coupled(net, "a.weight", "b.weight", "c.weight")
    units.keep([torch.tensor([True, False])])
    assert [units.mask(position).tolist() for position in (0, 2)] == [[[True] * 3, [False] * 3], [[True, False]]]
    assert (net["a"].bias != 0).tolist() == (net["b"].bias != 0).tolist() == [True, False]
    assert (units.counts, units.kept([1]), units.kept([2])) == ([1], 7, 14)
