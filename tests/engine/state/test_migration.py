"""Pruning states that an earlier release has written are resumed from."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from lightning_dynprune.base import DamagedError
from lightning_dynprune.engine import Pruner, sealed

NAMES = ("0.weight", "1.weight")
# Written by version 4 after four steps of `started`, one of them while paused; the first of two optimizers has stepped.
VERSION_4 = {
    "version": 4,
    "clock": {"step": 4, "epoch": 0},
    "lag": {"step": 1, "epoch": 0},
    "paused": False,
    "updates": 1,
    "scheduled_sparsity": 0.75,
    "carried": 0.0,
    "last_update": {
        "step": 2,
        "scheduled_sparsity": 0.75,
        "sparsity": 0.75,
        "dropped": {"0.weight": 3, "1.weight": 3},
        "grown": {"0.weight": 0, "1.weight": 0},
        "churn": 0.75,
        "cuts": {"0.weight": 4.0, "1.weight": 8.0},
    },
    "seed": 3,
    "pattern": "element",
    "whole": [4, 4],
    "shapes": {"0.weight": [1, 4], "1.weight": [1, 4]},
    "masks": {name: torch.tensor([8], dtype=torch.uint8) for name in NAMES},
    "state": {"0.weight": {}, "1.weight": {}},
    "memory": {"0.weight": {}, "1.weight": {}},
    "journal": None,
    "rewind": None,
    "units": None,
    "at_floor": ["0.weight", "1.weight"],
    "turns": {"optimizers": [0], "gradients": {"0.weight": torch.tensor([[1.0, 0.0, 0.0, 0.0]])}},
    "checksum": 1666297151,
}


def started() -> tuple[nn.ModuleList, list[torch.optim.SGD], Pruner]:
    net = nn.ModuleList([nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)])
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        net[1].weight.copy_(torch.tensor([[5.0, 6.0, 7.0, 8.0]]))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.25) for layer in net]
    pruner = Pruner(
        net,
        optimizers,
        sparsity=0.75,
        strategy={"name": "rigl", "exchange": 0.0},
        schedule={"name": "constant", "begin": 1, "end": 4, "every": 3},
        journal=False,
        seed=3,
    )
    return net, optimizers, pruner


def test_a_state_of_version_4_is_resumed_from_in_every_entry():
    _, _, pruner = started()
    pruner.load_state_dict(VERSION_4)
    now = pruner.state_dict()
    assert now["version"] == 5
    assert not {"lag", "carried", "whole", "at_floor", "turns"} & set(now)
    assert now["paused_for"] == {"step": 1, "epoch": 0}
    assert now["previous_sparsity"] == 0.0
    assert now["original_numel"] == [4, 4]
    assert now["at_min_kept"] == ["0.weight", "1.weight"]
    assert now["gradient_snapshot"]["stepped_optimizers"] == [0]
    assert now["gradient_snapshot"]["gradients"]["0.weight"].tolist() == [[1.0, 0.0, 0.0, 0.0]]
    for key in ("clock", "paused", "updates", "scheduled_sparsity", "last_update", "seed", "shapes", "masks"):
        assert now[key] == VERSION_4[key], key
    pruner.load_state_dict(now)
    assert str(pruner.state_dict()) == str(now)


def test_a_run_that_version_4_began_goes_on_as_one_that_never_stopped():
    ends = []
    for resumed in (False, True):
        net, optimizers, pruner = started()
        if resumed:
            pruner.load_state_dict(VERSION_4)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for step in range(4):
                    pruner.paused = step == 0
                    for layer, sgd in zip(net, optimizers, strict=True):
                        layer.weight.grad = torch.zeros(1, 4)
                        sgd.step()
                    pruner.tick()
            net[0].weight.grad = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
            optimizers[0].step()
            assert pruner.tick() is None
        net[1].weight.grad = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        optimizers[1].step()
        update = pruner.tick()
        assert update is not None
        assert update.step == 5
        ends.append((update, [layer.weight.tolist() for layer in net], str(pruner.state_dict())))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("key", ["lag", "carried", "turns", "at_floor", "whole", "seed"])
def test_a_damaged_state_of_version_4_is_refused_by_its_own_checksum(key):
    _, _, pruner = started()
    before = str(pruner.state_dict())
    with pytest.raises(DamagedError, match="does not match its checksum"):
        pruner.load_state_dict({**VERSION_4, key: 7})
    assert str(pruner.state_dict()) == before


def test_a_state_of_version_4_that_lacks_an_entry_is_refused_by_its_name_of_today():
    _, _, pruner = started()
    state = {key: value for key, value in VERSION_4.items() if key != "lag"}
    with pytest.raises(ValueError, match="'paused_for' is missing in the pruning state"):
        pruner.load_state_dict(sealed(state))
