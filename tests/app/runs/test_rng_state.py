"""The global random state: taken, written to a file that needs no pickle, and restored."""

from __future__ import annotations

import random

import numpy as np
import torch

from lightning_dynprune.app.runs import random_state, restore_random_state


def draws() -> list[float]:
    # The second normal of numpy's pair is cached in its state, and torch's normals take another path than its uniforms.
    return [random.random(), random.gauss(0, 1), *np.random.randn(3), *torch.rand(3).tolist(), *torch.randn(3).tolist()]


def test_what_is_drawn_after_a_restore_is_what_was_drawn_after_the_state_was_taken(tmp_path):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    draws()
    random.gauss(0, 1)
    torch.save(random_state(), tmp_path / "state.pt")
    first = draws()
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    assert draws() != first
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() == first


def test_taking_the_state_draws_nothing():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    random_state()
    assert torch.equal(torch.get_rng_state(), before)
