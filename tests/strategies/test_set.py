"""SET: drop the smallest, grow at random."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from tests.strategies.literal import Layer

WEIGHT = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0]


def exchanged(seed: int) -> Layer:
    """Return a layer after its start (5, -6 and -4 live) and one exchange of one connection."""
    layer = Layer(
        WEIGHT,
        sparsity=0.5,
        strategy={"name": "set", "start": "magnitude", "exchange": 0.34},
        schedule={"name": "constant", "begin": 0, "end": 1, "every": 1},
        seed=seed,
    )
    layer.pruner.start()
    assert layer.weight == [0.0, 0.0, 0.0, -4.0, 5.0, -6.0]
    layer.step()
    return layer


def test_the_smallest_living_connection_goes_and_any_pruned_one_comes():
    grown = set()
    for seed in range(40):
        layer = exchanged(seed)
        # Two stay; the third is drawn among the four that are pruned then, the dropped one among them.
        assert layer.mask[4:] == [True, True]
        (new,) = [i for i in range(4) if layer.mask[i]]
        grown.add(new)
        # It starts at zero, unless it was dropped by this very update: then it never left.
        assert layer.weight == [0.0, 0.0, 0.0, -4.0 if new == 3 else 0.0, 5.0, -6.0]
        update = layer.pruner.last_update
        assert (update.dropped["weight"], update.grown["weight"]) == ((0, 0) if new == 3 else (1, 1))
        assert update.churn == (0.0 if new == 3 else 2 / 6)
    assert grown == {0, 1, 2, 3}


def test_growth_is_the_same_for_the_same_seed():
    assert exchanged(3).mask == exchanged(3).mask


def test_the_first_mask_is_random_with_the_densities_of_erk():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 90, bias=False))
    pruner = Pruner(net, sparsity=0.8, strategy="set", total_steps=1000)
    largest = net[1].weight.abs().view(-1).topk(167).indices
    pruner.start()
    # 200 of 1,000 live, in proportion to 10 + 10 and 10 + 90: 33.3 and 166.7.
    assert pruner.masks.kept == [33, 167]
    by_size = torch.zeros(900, dtype=torch.bool).index_fill_(0, largest, True)
    # Of 900, 167 drawn by chance and the 167 largest have 31 in common, give or take 5.
    assert 15 < int((pruner.masks.tensors[1].view(-1) & by_size).sum()) < 47


def test_by_default_updates_come_every_100_steps_until_three_quarters_and_exchange_less_and_less():
    net = nn.Linear(20, 50, bias=False)
    pruner = Pruner(net, sparsity=0.8, strategy="set", total_steps=400)
    updates = []
    for _ in range(400):
        with torch.no_grad():
            net.weight.add_(torch.ones_like(net.weight))  # nothing is near zero, and all are alike
        if update := pruner.tick():
            updates.append(update)
    assert [u.step for u in updates] == [100, 200, 300]
    # 200 live; 0.15 (1 + cos(pi t / 300)) of them are exchanged: 45, 15, 0, less what is drawn again.
    drawn_again = [45 - updates[0].dropped["weight"], 15 - updates[1].dropped["weight"]]
    assert all(0 <= n <= 8 for n in drawn_again)
    assert updates[2].churn == 0.0
    assert all(u.dropped == u.grown for u in updates)
    assert all(u.sparsity == 0.8 for u in updates)


@pytest.mark.parametrize("kind", ["set", "rigl"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exchange": 1.0}, r"exchange=1.0 is not accepted; give a number in \[0, 1\)"),
        ({"exchange": -0.1}, "exchange=-0.1 is not accepted"),
        ({"start": "zeros"}, "start='zeros' is unknown; known: random, magnitude"),
    ],
)
def test_settings_out_of_range_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=f"strategy {kind}: {message}"):
        Pruner(nn.Linear(4, 4), sparsity=0.5, strategy={"name": kind, **settings}, total_steps=100)
