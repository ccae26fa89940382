"""The engine in a plain PyTorch loop."""

from __future__ import annotations

import gc
import math
import warnings

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner, sealed
from lightning_dynprune.schedules import Cubic
from lightning_dynprune.strategies import Strategy

NOW = {"name": "one_shot", "begin": 1}


def trained(pruner: Pruner, net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 20, generator=generator)).square().sum().backward()
        optimizer.step()
        pruner.tick()


OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1, nesterov=True),
    lambda p: torch.optim.Adam(p, weight_decay=0.1, amsgrad=True),
    lambda p: torch.optim.AdamW(p, weight_decay=0.1),
    lambda p: torch.optim.NAdam(p),
    lambda p: torch.optim.RAdam(p),
    lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
    lambda p: torch.optim.Adagrad(p),
    lambda p: torch.optim.Adadelta(p),
    lambda p: torch.optim.Adamax(p),
    lambda p: torch.optim.ASGD(p),
    lambda p: torch.optim.Rprop(p),
]


@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda make: type(make([nn.Parameter(torch.ones(1))])).__name__)
def test_pruned_entries_stay_zero_under_any_optimizer(make):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 20))
    optimizer = make(net.parameters())
    pruner = Pruner(net, optimizer, sparsity=0.8, schedule={"name": "linear", "begin": 2, "end": 8, "every": 2})
    for _ in range(15):
        trained(pruner, net, optimizer, 1)
        for target, mask in zip(pruner.targets, pruner.masks.tensors, strict=True):
            assert not target.parameter.detach().view(torch.int32)[~mask].any()
    assert pruner.sparsity == pytest.approx(0.8)


def test_an_update_clears_the_optimizers_slots_where_pruned():
    net = nn.Linear(20, 20)
    optimizer = torch.optim.Adam(net.parameters())
    pruner = Pruner(net, optimizer, sparsity=0.5, schedule={"name": "one_shot", "begin": 5})
    trained(pruner, net, optimizer, 5)
    mask = pruner.masks.tensors[0]
    for slot in ("exp_avg", "exp_avg_sq"):
        values = optimizer.state[net.weight][slot]
        assert not values[~mask].any()
        assert values[mask].all()


def test_nothing_is_touched_before_the_schedule_begins():
    net, plain = nn.Linear(20, 20), nn.Linear(20, 20)
    plain.load_state_dict(net.state_dict())
    optimizer, other = torch.optim.Adam(net.parameters()), torch.optim.Adam(plain.parameters())
    trained(Pruner(net, optimizer, sparsity=0.5, schedule={"name": "one_shot", "begin": 9}), net, optimizer, 8)

    class Nothing:
        def tick(self):
            pass

    trained(Nothing(), plain, other, 8)
    assert torch.equal(net.weight, plain.weight)


def test_taylor_reads_the_weight_before_the_step_and_its_gradient():
    net = nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[2.0, -3.0]])
    optimizer = torch.optim.SGD(net.parameters(), lr=10.0)
    pruner = Pruner(net, optimizer, sparsity=0.5, strategy={"name": "taylor", "decay": 0.0}, schedule=NOW)
    net(torch.tensor([[1.0, 4.0]])).sum().backward()
    optimizer.step()
    # gradients 1 and 4: (2 * 1)^2 and (-3 * 4)^2, not those of the weights after the step, -8 and -43.
    assert pruner.targets[0].state["sensitivity"].tolist() == [[4.0, 144.0]]
    pruner.tick()
    assert pruner.masks.tensors[0].tolist() == [[False, True]]


def test_a_strategy_may_score_targets_whole():
    class RowNorm(Strategy):
        elementwise = False

        def score(self, target):
            assert target.weight.dim() == 2
            return target.weight.abs() / target.weight.abs().sum(1, keepdim=True)

    net = nn.Linear(4, 2, bias=False)
    net.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0], [100.0, 200.0, 300.0, 400.0]])
    pruner = Pruner(net, sparsity=0.5, strategy=RowNorm(), schedule=NOW)
    pruner.tick()
    assert pruner.masks.tensors[0].tolist() == [[False, False, True, True]] * 2


def test_an_update_tells_what_it_did():
    net = nn.Linear(10, 10, bias=False)
    pruner = Pruner(
        net, sparsity=0.9, strategy="magnitude", schedule={"name": "linear", "begin": 1, "end": 3, "every": 1}
    )
    updates = [pruner.tick() for _ in range(4)]
    assert updates[3] is None
    assert [u.step for u in updates[:3]] == [1, 2, 3]
    assert [u.dropped["weight"] for u in updates[:3]] == [0, 45, 45]
    assert [u.grown["weight"] for u in updates[:3]] == [0, 0, 0]
    assert [u.churn for u in updates[:3]] == [0.0, 0.45, 0.45]
    assert [u.sparsity for u in updates[:3]] == [0.0, 0.45, 0.9]


def test_a_target_at_its_floor_is_named_once():
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    nn.init.constant_(net[0].weight, 1e-6)
    pruner = Pruner(
        net,
        sparsity=0.6,
        min_kept=3,
        strategy="magnitude",
        schedule={"name": "linear", "begin": 1, "end": 4, "every": 1},
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(4):
            pruner.tick()
    said = [str(w.message) for w in seen]
    assert said == ["0.weight is down to min_kept=3 of its 100 connections and is pruned no further"]
    assert pruner.masks.kept == [3, 77]


def test_two_pruners_of_one_parameter_are_refused_until_one_lets_go():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    first = Pruner(net, sparsity=0.5, targets="0.*", strategy="magnitude", schedule=NOW)
    second = Pruner(net, sparsity=0.5, targets="1.*", strategy="magnitude", schedule=NOW)
    with pytest.raises(ValueError, match=r"1\.weight is pruned by another pruner already; .* call close\(\)"):
        Pruner(net, sparsity=0.5, targets="1.*", strategy="magnitude", schedule=NOW)
    second.close()
    third = Pruner(net, sparsity=0.5, targets="1.*", strategy="magnitude", schedule=NOW)
    del third
    gc.collect()
    Pruner(net, sparsity=0.5, targets="1.*", strategy="magnitude", schedule=NOW)
    assert first.sparsity == 0.0


def other_state(**changes):
    pruner = Pruner(nn.Linear(4, 4), sparsity=0.5, strategy="magnitude", schedule=NOW)
    return sealed({**pruner.state_dict(), **changes})


def test_a_state_of_other_targets_is_refused_and_nothing_changes():
    net = nn.Linear(4, 4)
    pruner = Pruner(net, sparsity=0.5, strategy="magnitude", schedule=NOW)
    pruner.tick()
    kept = list(pruner.masks.kept)
    foreign = Pruner(nn.Sequential(nn.Linear(4, 5)), sparsity=0.5, strategy="magnitude", schedule=NOW).state_dict()
    with pytest.raises(ValueError, match=r"made for other targets; 0.weight is \(5, 4\) there and no target here"):
        pruner.load_state_dict(foreign)
    with pytest.raises(ValueError, match=r"weight is \(5, 4\) there and \(4, 4\) here"):
        pruner.load_state_dict(other_state(shapes={"weight": [5, 4]}))
    with pytest.raises(ValueError, match="pruning state of version 9 cannot be read; expected 5 or 4"):
        pruner.load_state_dict(other_state(version=9))
    with pytest.raises(ValueError, match=r"state of weight is ema \(4, 4\), but strategy Magnitude keeps nothing"):
        pruner.load_state_dict(other_state(state={"weight": {"ema": torch.zeros(4, 4)}}))
    assert pruner.masks.kept == kept


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"sparsity": 1.2}, ValueError, r"sparsity=1.2 is not accepted; give a number in \[0, 1\)"),
        ({"sparsity": 1.0}, ValueError, r"sparsity=1.0 is not accepted"),
        ({"sparsity": -0.1}, ValueError, r"sparsity=-0.1 is not accepted"),
        ({"sparsity": math.nan}, ValueError, "sparsity=nan is not accepted"),
        ({"sparsity": "90%"}, TypeError, "sparsity='90%' is not a number"),
        ({"sparsity": True}, TypeError, "sparsity=True is not a number"),
        ({}, ValueError, "sparsity=None: no final sparsity is given"),
        ({"sparsity": 0.5, "schedule": Cubic(0.6, begin=1, end=2, every=1)}, ValueError, "contradicts the schedule's"),
        ({"schedule": Cubic(1.6, begin=1, end=2, every=1)}, ValueError, r"schedule: final=1.6 is not accepted"),
        ({"sparsity": 0.5, "schedule": "cubic"}, ValueError, "is a share of training, whose length is not known"),
        (
            {"sparsity": 0.5, "schedule": NOW},
            ValueError,
            r"strategy=Taylor watches every step, so it needs the optimizer; give it as Pruner\(model, optimizer\), or "
            "give strategy='magnitude', which needs none",
        ),
        ({"sparsity": 0.5, "strategy": "surgery", "schedule": NOW}, ValueError, "watches every step, so it needs"),
    ],
)
def test_what_cannot_work_is_refused_in_words(settings, error, message):
    with pytest.raises(error, match=message):
        Pruner(nn.Linear(4, 4), **settings)


def test_update_may_be_called_by_hand():
    net = nn.Linear(10, 10, bias=False)
    pruner = Pruner(net, sparsity=0.9, strategy="magnitude", schedule=NOW)
    assert pruner.update(0.25).sparsity == 0.25
    with pytest.raises(ValueError, match="sparsity=2 is not accepted"):
        pruner.update(2)


def test_empty_and_single_entry_targets_are_cut_too():
    net = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(4, 5, bias=False)])
    net.append(nn.Linear(0, 3, bias=False))
    pruner = Pruner(net, sparsity=0.5, strategy="magnitude", schedule=NOW)
    pruner.tick()
    assert pruner.masks.kept[0] == 1
    assert sum(pruner.masks.kept) == 21 - 11


def test_mixed_precision_targets_share_one_exact_cut():
    torch.manual_seed(0)
    net = nn.ModuleList([nn.Linear(50, 50), nn.Linear(50, 50).double(), nn.Linear(50, 50).bfloat16()])
    before = [layer.weight.detach().double().abs().view(-1) for layer in net]
    pruner = Pruner(net, sparsity=0.7, strategy="magnitude", schedule=NOW)
    pruner.tick()
    order = torch.cat(before).sort(descending=True, stable=True).indices[: 7500 - 5250]
    expected = torch.zeros(7500, dtype=torch.bool).index_fill_(0, order, True)
    assert torch.equal(torch.cat([m.view(-1) for m in pruner.masks.tensors]), expected)
