"""What an optimizer keeps entry for entry with a parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.masks import KeptEntries, narrow_slots, optimizer_holds, reset_slots
from lightning_dynprune.masks.optimizer_slots import slots


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
    assert optimizer_holds(optimizer, {a, b})
    assert not optimizer_holds(optimizer, {b})


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
    reset_slots([optimizer], parameter, keep)
    starts = {**dict.fromkeys(before, 0.0), "sum": 0.5, "step_size": 0.02}
    for key, value in optimizer.state[parameter].items():
        if not torch.is_tensor(value) or value.shape != (4,):
            continue
        assert torch.equal(value[keep], before[key][keep]), key
        assert value[~keep].tolist() == pytest.approx([starts[key]] * 2), key


def test_a_parameter_that_got_smaller_takes_its_slots_along_and_step_counts_stay():
    optimizer, parameter = stepped(lambda p: torch.optim.Adam(p, amsgrad=True))
    state = optimizer.state[parameter]
    state["exp_avg"].copy_(torch.arange(12.0).view(3, 4))
    stayed = KeptEntries(parameter.shape, {0: torch.tensor([0, 2]), 1: torch.tensor([1, 2, 3])})
    narrow_slots([optimizer], {parameter: stayed})
    assert state["exp_avg"].tolist() == [[1.0, 2.0, 3.0], [9.0, 10.0, 11.0]]
    assert [state[key].shape for key in ("exp_avg_sq", "max_exp_avg_sq")] == [(2, 3), (2, 3)]
    assert state["step"].item() == 1


def test_factored_slots_are_means_over_what_stayed():
    optimizer, parameter = stepped(torch.optim.Adafactor)
    state = optimizer.state[parameter]
    state["row_var"].copy_(torch.tensor([[1.0], [2.0], [3.0]]))
    state["col_var"].copy_(torch.tensor([[0.0, 4.0, 5.0, 6.0]]))
    narrow_slots([optimizer], {parameter: KeptEntries(parameter.shape, {1: torch.tensor([1, 2, 3])})})
    # The mean of a row over three columns is 4 / 3 of that over four of which the first was zero.
    assert state["row_var"].flatten().tolist() == pytest.approx([4 / 3, 8 / 3, 4])
    assert state["col_var"].tolist() == [[4.0, 5.0, 6.0]]


def test_slots_keep_their_memory_format_when_they_get_smaller():
    optimizer, parameter = stepped(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), (4, 3, 2, 2))
    state = optimizer.state[parameter]
    state["momentum_buffer"] = torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last)
    narrow_slots([optimizer], {parameter: KeptEntries(parameter.shape, {0: torch.tensor([1, 2])})})
    assert state["momentum_buffer"].shape == (2, 3, 2, 2)
    assert state["momentum_buffer"].is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_carried_where_one_slot_cannot_be():
    optimizer, parameter = stepped(torch.optim.Adam)
    optimizer.state[parameter]["odd"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"Adam keeps 'odd' of shape \(5,\) for a parameter of shape \(3, 4\)"):
        narrow_slots([optimizer], {parameter: KeptEntries(parameter.shape, {0: torch.tensor([0])})})
    assert optimizer.state[parameter]["exp_avg"].shape == (3, 4)


def test_an_optimizer_of_other_parameters_is_left_as_it_is():
    optimizer, _ = stepped(torch.optim.Adam)
    lbfgs = torch.optim.LBFGS([nn.Parameter(torch.ones(2))])
    lbfgs.state["x"] = {"d": 1}
    before = dict(optimizer.state)
    narrow_slots(
        [optimizer, lbfgs], {nn.Parameter(torch.ones(1)): KeptEntries(torch.Size([2]), {0: torch.tensor([0])})}
    )
    assert dict(optimizer.state) == before
    assert "x" in lbfgs.state
