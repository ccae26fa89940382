"""A training of many updates holds no more at its end than at its middle, and a fit leaves nothing behind."""

from __future__ import annotations

import gc
import io
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.engine.attachment.ownership import _owners
from tests.compatibility.runs import EPOCHS, Module, pruning
from tests.training import trainer

UPDATES, FULL, LONGEST = 800, 500, 50
STRATEGIES = {"magnitude": "cubic", "rigl": "constant", "straight_through": "cubic"}


def held(pruner: Pruner) -> tuple[int, int]:
    """Return the blocks that Python has allocated, and the bytes of the pruning state."""
    file = io.BytesIO()
    torch.save(pruner.state_dict(), file)
    size = len(file.getvalue())
    del file
    gc.collect()
    return sys.getallocatedblocks(), size


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_training_of_many_updates_holds_no_more_at_the_end_than_once_its_journal_is_full(strategy):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    pruner = Pruner(
        net,
        optimizer,
        sparsity=0.8,
        strategy=strategy,
        schedule={"name": STRATEGIES[strategy], "begin": 1, "end": UPDATES, "every": 1},
        journal={"longest": LONGEST},
        total_steps=UPDATES,
    )
    marks = []
    for step in range(1, UPDATES + 1):
        optimizer.zero_grad()
        net(torch.randn(8, 16)).square().mean().backward()
        optimizer.step()
        pruner.tick()
        if step in (FULL, UPDATES):
            marks.append(held(pruner))
    assert pruner.updates >= UPDATES
    assert len(pruner.journal.updates) == LONGEST
    assert pruner.journal.totals["updates"] == pruner.updates
    (blocks, size), (blocks_at_the_end, size_at_the_end) = marks
    # A single number kept of each update would be three hundred blocks more; the deltas differ a little in theirs.
    assert blocks_at_the_end - blocks < 250
    assert size_at_the_end <= 1.1 * size


def test_a_fit_leaves_nothing_behind_that_would_keep_its_network_alive(tmp_path):
    def fit(folder: Path) -> list[weakref.ref]:
        module, ours = Module(), pruning("taylor")
        run = trainer([ours], folder, max_epochs=EPOCHS)
        run.fit(module)
        return [weakref.ref(thing) for thing in (module, ours, ours.pruner, run, ours.pruner.masks.tensors[0])]

    gc.collect()
    owners = len(_owners)
    left = fit(tmp_path)
    gc.collect()
    assert [reference() for reference in left] == [None] * len(left)
    assert len(_owners) == owners
