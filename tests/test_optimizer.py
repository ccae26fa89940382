"""What an optimizer keeps entry for entry with a parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.optimizer import clear, slots, trains


def stepped(make, shape=(3, 4)):
    parameter = nn.Parameter(torch.ones(shape))
    optimizer = make([parameter])
    parameter.grad = torch.ones(shape)
    optimizer.step()
    return optimizer, parameter


def test_slots_are_the_tensors_of_the_parameters_shape():
    optimizer, parameter = stepped(lambda p: torch.optim.Adam(p, amsgrad=True))
    state = optimizer.state[parameter]
    found = {id(slot) for slot, _ in slots([optimizer], parameter)}
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


OPTIMIZERS = {
    "Adadelta": torch.optim.Adadelta,
    "Adagrad": lambda p: torch.optim.Adagrad(p, initial_accumulator_value=0.5),
    "Adam": lambda p: torch.optim.Adam(p, amsgrad=True),
    "AdamW": torch.optim.AdamW,
    "Adamax": torch.optim.Adamax,
    "ASGD": torch.optim.ASGD,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "RMSprop": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.02),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_a_cleared_slot_is_what_a_fresh_optimizer_would_have_and_the_others_stay(make):
    optimizer, parameter = stepped(make, shape=(4,))
    before = {key: value.clone() for key, value in optimizer.state[parameter].items() if torch.is_tensor(value)}
    keep = torch.tensor([True, False, True, False])
    clear([optimizer], parameter, keep)
    starts = {**dict.fromkeys(before, 0.0), "sum": 0.5, "step_size": 0.02}
    for key, value in optimizer.state[parameter].items():
        if not torch.is_tensor(value) or value.shape != (4,):
            continue
        assert torch.equal(value[keep], before[key][keep]), key
        assert value[~keep].tolist() == pytest.approx([starts[key]] * 2), key
