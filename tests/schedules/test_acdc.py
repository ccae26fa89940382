"""AC/DC: phases as in the paper, in epochs and in steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.schedules import ACDC, Clock, Horizon


def paper(epoch: int) -> float:
    """Return the sparsity during an epoch of 100: dense for 10, then 5 and 5 in turns, dense 75-85, sparse 85-100."""
    if epoch < 10 or 75 <= epoch < 85:
        return 0.0
    return 0.9 if epoch >= 85 or (epoch - 10) // 5 % 2 == 0 else 0.0


def test_a_hundred_epochs_have_the_phases_of_the_paper():
    schedule = ACDC(0.9, begin="10 epochs", end="85 epochs", every="5 epochs").resolve(Horizon(epochs=100))
    assert [schedule.value(Clock(0, epoch)) for epoch in range(100)] == [paper(epoch) for epoch in range(100)]
    assert [e for e in range(101) if schedule.is_due(Clock(0, e), "epochs")] == list(range(10, 86, 5))
    assert not any(schedule.is_due(Clock(e, e), "steps") for e in range(101))


def test_the_defaults_are_the_same_shares_of_a_training_in_steps():
    schedule = ACDC(0.9).resolve(Horizon(steps=1000))
    assert [schedule.value(Clock(step)) for step in range(1000)] == [paper(step // 10) for step in range(1000)]
    assert [s for s in range(1001) if schedule.is_due(Clock(s))] == list(range(100, 851, 50))


@pytest.mark.parametrize(
    ("end", "sparse"),
    [
        (8, {2, 3, 8, 9}),  # three phases of two: the last before the end is dense
        (6, {2, 3, 6, 7, 8, 9}),
        (7, {2, 3, 7, 8, 9}),  # a phase cut short counts as dense
        (4, {4, 5, 6, 7, 8, 9}),  # one phase: it leads up to the end, dense
        (2, {2, 3, 4, 5, 6, 7, 8, 9}),
    ],
)
def test_what_leads_up_to_the_end_is_dense(end, sparse):
    schedule = ACDC(0.5, begin=2, end=end, every=2).resolve(Horizon(steps=10))
    assert {step for step in range(10) if schedule.value(Clock(step))} == sparse


def test_in_a_dense_phase_every_connection_is_back_at_zero_and_trains():
    torch.manual_seed(0)
    net = nn.Linear(10, 10, bias=False)
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    schedule = {"name": "acdc", "begin": 2, "end": 8, "every": 2}
    pruner = Pruner(net, adam, sparsity=0.8, strategy="magnitude", schedule=schedule)
    pruned = []
    for step in range(1, 11):
        adam.zero_grad()
        net(torch.randn(8, 10)).square().sum().backward()
        adam.step()
        before = pruner.masks.tensors[0].clone()
        update = pruner.tick()
        pruned.append(round(100 * pruner.sparsity))
        if step == 4:
            assert update.grown == {"weight": 80}
            assert not net.weight[~before].any()
            assert not adam.state[net.weight]["exp_avg"][~before].any()
            assert not adam.state[net.weight]["exp_avg_sq"][~before].any()
        if step == 5:
            assert net.weight.all()
    assert pruned == [0, 80, 80, 0, 0, 0, 0, 80, 80, 80]
