"""What an optimizer keeps entry for entry with a parameter."""

from __future__ import annotations

import torch
from torch import nn

from lightning_dynprune.optimizer import slots, trains


def stepped(make, shape=(3, 4)):
    parameter = nn.Parameter(torch.ones(shape))
    optimizer = make([parameter])
    parameter.grad = torch.ones(shape)
    optimizer.step()
    return optimizer, parameter


def test_slots_are_the_tensors_of_the_parameters_shape():
    optimizer, parameter = stepped(lambda p: torch.optim.Adam(p, amsgrad=True))
    state = optimizer.state[parameter]
    found = {id(slot) for slot in slots([optimizer], parameter)}
    assert found == {id(state[k]) for k in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}


def test_step_counts_and_factored_moments_are_no_slots():
    optimizer, parameter = stepped(torch.optim.Adafactor)
    assert list(slots([optimizer], parameter)) == []
    optimizer, parameter = stepped(lambda p: torch.optim.SGD(p, lr=0.1))
    assert list(slots([optimizer], parameter)) == []


def test_a_parameter_that_never_stepped_has_no_slots_and_is_given_none():
    optimizer, parameter = torch.optim.Adam([nn.Parameter(torch.ones(2))]), nn.Parameter(torch.ones(2))
    assert list(slots([optimizer], parameter)) == []
    assert parameter not in optimizer.state


def test_trains_tells_whose_parameters_are_whose():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([a], lr=0.1)
    assert trains(optimizer, {a, b})
    assert not trains(optimizer, {b})
