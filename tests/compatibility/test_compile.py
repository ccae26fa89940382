"""torch.compile, by inductor."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from tests.compatibility.runs import STRATEGIES, Module, fit, holds, network

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


class Inside(Module):
    """A module that compiles its own network, whose parameters then have ``_orig_mod`` in their names."""

    def __init__(self) -> None:
        super().__init__(torch.compile(network()))


@pytest.fixture(autouse=True)
def _anew() -> Any:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_compiled_network_is_pruned_exactly_and_is_never_compiled_again(strategy, tmp_path):
    _, ours, _ = fit(tmp_path, strategy, Inside, limit_val_batches=0)
    assert ours.pruner is not None
    assert ours.pruner.updates > 3
    # One graph for the whole run: masks are data, and no update makes a guard fail.
    assert counters["stats"]["unique_graphs"] == 1
    assert set(ours.masks) == {"net._orig_mod.0.weight", "net._orig_mod.3.weight"}


def test_a_compiled_run_resumes_to_the_bit(tmp_path):
    holds(tmp_path, "taylor", Inside, limit_val_batches=0)
