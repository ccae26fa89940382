"""The warning where a training is too short for the updates of RigL and SET."""

from __future__ import annotations

import warnings

import pytest
from torch import nn

from lightning_dynprune.engine import Pruner


def started(strategy: str, steps: int, **schedule: object) -> list[str]:
    """Return what is warned of when the pruning of a training of so many steps is set up."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Pruner(nn.Linear(8, 8), sparsity=0.5, strategy=strategy, schedule=schedule or None, total_steps=steps)
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("strategy", ["rigl", "set"])
def test_a_training_shorter_than_every_is_remarked_on(strategy):
    (said,) = started(strategy, 64)
    assert "no update after the first step will exchange connections" in said
    assert "every 100 steps from 0 to 48; give a smaller every, such as schedule={'every': '4 steps'}" in said


def test_one_or_two_updates_are_counted():
    assert "only 1 update after" in started("rigl", 200)[0]
    assert "only 2 updates after" in started("rigl", 360)[0]


def test_enough_updates_and_strategies_that_exchange_nothing_are_not_remarked_on():
    assert started("rigl", 600) == []
    assert started("rigl", 64, every=4) == []
    assert started("magnitude", 64, every=100) == []
