"""The published SparseGPT loop, on a 4 x 4 weight worked out by hand.

The inverse Hessian is U^T U with U = [[.5, .5, 0, 0], [0, 1, 1, 0], [0, 0, .5, .5], [0, 0, 0, 1]]. So a score is
4 w^2, w^2, 4 w^2, w^2 in the four columns, and a pruned connection is subtracted from its right neighbour.
"""

from __future__ import annotations

import pytest
import torch
from sparsegpt import sparsegpt, wanda_mask

HESSIAN = torch.tensor([[10.0, -6, 5, -1], [-6, 6, -5, 1], [5, -5, 5, -1], [-1, 1, -1, 1]])
WEIGHT = torch.tensor([[1.0, 3, 2, 1], [2, 1, 2, 3], [3, 2, 4, 1], [1, 4, 3, 5]])


def test_half_of_each_two_columns_is_pruned_and_later_columns_are_corrected_before_they_are_scored() -> None:
    # Columns 0-1: scores 4 9 | 16 1 | 36 4 | 4 16. Then rows are 0 2 2 1 | 2 0 1 3 | 3 0 2 1 | 0 3 3 5,
    # columns 2-3: scores 16 1 | 4 9 | 16 1 | 36 25.
    new = sparsegpt(WEIGHT, HESSIAN, 0.5, damping=0, block=2)

    assert (new - torch.tensor([[0.0, 2, 2, 0], [2, 0, 0, 0], [3, 0, 2, 0], [0, 3, 3, 5]])).abs().max() < 1e-4
    assert int((new == 0).sum()) == 8


def test_two_of_four_are_pruned_in_each_row_by_the_scores_at_their_first_column() -> None:
    # Scores 4 9 16 1 | 16 1 16 9 | 36 4 64 1 | 4 16 36 25.
    new = sparsegpt(WEIGHT, HESSIAN, (2, 4), damping=0, block=4)

    assert (new - torch.tensor([[0.0, 2, 2, 0], [2, 0, 1, 0], [3, 0, 2, 0], [0, 0, 0, 5]])).abs().max() < 1e-4


def test_a_block_of_columns_that_cuts_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="block=2 and 4 columns do not divide into groups of 4"):
        sparsegpt(WEIGHT, HESSIAN, (2, 4), block=2)


def test_an_input_that_was_always_zero_loses_its_connections_first() -> None:
    hessian = torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0]))

    new = sparsegpt(torch.tensor([[1.0, 9, 2, 3]]), hessian, 0.25, damping=0, block=4)

    assert new.tolist() == [[1.0, 0.0, 2.0, 3.0]]


def test_wanda_prunes_half_of_each_row_by_magnitude_times_the_norm_of_the_input() -> None:
    # Norms 1, 10, 1, 1: scores 2 10 3 4.
    hessian = torch.diag(torch.tensor([1.0, 100.0, 1.0, 1.0]))

    assert wanda_mask(torch.tensor([[2.0, 1, 3, 4]]), hessian, 0.5).tolist() == [[False, True, False, True]]
    assert wanda_mask(torch.tensor([[2.0, 1, 3, 4]]), hessian, (2, 4)).tolist() == [[False, True, False, True]]
