"""Objects are out of garbage collection during a measurement, and afterwards as before it."""

from __future__ import annotations

import gc

import pytest

from lightning_dynprune.deploy.timing.gc_freeze import gc_frozen


@pytest.fixture(autouse=True)
def _freeze_again():
    yield
    gc.freeze()  # as the suite does before each file


def test_what_is_alive_is_frozen_during_the_block_and_not_after_it():
    gc.unfreeze()
    with gc_frozen():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_an_error_in_the_block_leaves_nothing_frozen():
    gc.unfreeze()
    with pytest.raises(KeyError), gc_frozen():
        raise KeyError
    assert gc.get_freeze_count() == 0


def test_what_the_program_has_frozen_stays_so():
    gc.freeze()
    with gc_frozen():
        pass
    assert gc.get_freeze_count() > 0
