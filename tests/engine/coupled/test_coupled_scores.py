"""The score of a coupled unit is the mean score of the kept connections that make it."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from lightning_dynprune.engine.coupled.coupled_scores import coupled_scores
from tests.engine.coupled.test_coupled_masks import coupled, two_makers


def test_pruned_connections_of_a_living_unit_count_neither_in_the_sum_nor_in_the_number():
    units = coupled(two_makers(), "a.weight", "b.weight")
    scores = [torch.tensor([[1.0, 5.0, 3.0], [2.0, 2.0, 2.0]]), torch.tensor([[9.0, 2.0, 9.0], [8.0, 0.0, 4.0]])]
    masks = [
        torch.tensor([[True, False, True], [True, True, True]]),
        torch.tensor([[False, True, False], [True, True, False]]),
    ]
    views = [SimpleNamespace(mask=mask, scores=each, seed=0, step=0) for mask, each in zip(masks, scores, strict=True)]
    (found,) = coupled_scores(units, views, lambda view: view.scores)
    ((pooled, lives),) = found.pieces()
    # Unit 0: (1 + 3 + 2) / 3 = 2; unit 1: (2 + 2 + 2 + 8 + 0) / 5 = 2.8; over their mean, 2.4.
    assert torch.allclose(pooled, torch.tensor([2 / 2.4, 2.8 / 2.4]))
    assert lives.tolist() == [True, True]
