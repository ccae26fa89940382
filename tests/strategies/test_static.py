"""Static: a random mask that stays."""

from __future__ import annotations

import torch
from torch import nn

from lightning_dynprune.engine import Pruner


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 90, bias=False))


def masks_of(seed: int = 0, **settings) -> list[torch.Tensor]:
    pruner = Pruner(network(), sparsity=0.8, strategy="static", seed=seed, **settings)
    for _ in range(3):
        pruner.tick()
    assert pruner.updates == 1
    assert pruner.last_update.step == 0
    return pruner.masks.tensors


def test_the_mask_is_drawn_once_with_the_densities_of_erk():
    # As for SET: 200 of 1,000 live, in proportion to 20 and 100.
    assert [int(m.sum()) for m in masks_of()] == [33, 167]


def test_the_mask_depends_on_the_seed_and_not_on_the_weights():
    assert all(torch.equal(a, b) for a, b in zip(masks_of(1), masks_of(1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(masks_of(1), masks_of(2), strict=True))
    # Rows and columns are hit evenly: of 90 rows of 10, each with 10 * 167 / 900 expected, none holds more than 8.
    assert int(masks_of()[1].sum(1).max()) <= 8


def test_a_rising_sparsity_prunes_in_one_order():
    net = network()
    pruner = Pruner(net, sparsity=0.9, strategy="static", schedule={"name": "linear", "begin": 1, "end": 5, "every": 1})
    before = [m.clone() for m in pruner.masks.tensors]
    for _ in range(5):
        pruner.tick()
        assert not any((now & ~old).any() for now, old in zip(pruner.masks.tensors, before, strict=True))
        before = [m.clone() for m in pruner.masks.tensors]
    at_once = Pruner(network(), sparsity=0.9, strategy="static")
    at_once.tick()
    assert all(torch.equal(a, b) for a, b in zip(at_once.masks.tensors, before, strict=True))
