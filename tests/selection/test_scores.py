"""The scores of a target: what counts, what is a floor, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lightning_dynprune.distributed import Ranks, Shard
from lightning_dynprune.selection import Scores, moments
from lightning_dynprune.selection.scores import NonFiniteError, at_least_float32, check_finite
from tests.distributed.threads import in_threads

FOUR = Scores.from_tensor("w", torch.tensor([[3.0, 1.0], [2.0, 4.0]]))


def test_scores_in_one_tensor_are_read_flat_and_whole():
    assert (FOUR.units, FOUR.candidates, FOUR.min_kept, FOUR.shape) == (4, 4, 1, (2, 2))
    ((scores, candidates),) = FOUR.pieces()
    assert (scores.tolist(), candidates) == ([3.0, 1.0, 2.0, 4.0], None)
    assert FOUR.candidate_scores(torch.tensor([3, 0])).tolist() == [4.0, 3.0]


def test_candidates_in_one_tensor_are_counted_and_sampled():
    mask = torch.tensor([[True, False], [True, False]])
    some = Scores.from_tensor("w", torch.tensor([[3.0, 1.0], [2.0, 4.0]]), mask, min_kept=2)
    assert (some.units, some.candidates, some.min_kept) == (4, 2, 2)
    ((_, candidates),) = some.pieces()
    assert candidates.tolist() == [True, False, True, False]
    assert some.candidate_scores(torch.tensor([1, 2, 3])).tolist() == [2.0]


@pytest.mark.parametrize(
    ("min_kept", "num_protected", "candidates", "least", "most"),
    [(1, 0, 4, 1, 4), (3, 0, 4, 3, 4), (9, 0, 4, 4, 4), (1, 2, 2, 2, 4), (3, 2, 2, 3, 4), (1, 0, 0, 0, 0)],
)
def test_the_least_is_min_kept_or_what_is_protected_but_no_more_than_there_is(
    min_kept, num_protected, candidates, least, most
):
    one = replace(FOUR, min_kept=min_kept, num_protected=num_protected, candidates=candidates)
    assert (one.effective_min_kept, one.max_kept) == (least, most)


def test_scores_above_the_clip_count_as_infinite_and_the_clip_itself_does_not():
    clipped = replace(FOUR, clip=3.0)
    ((scores, _),) = clipped.finite_pieces()
    assert scores.tolist() == [3.0, 1.0, 2.0, math.inf]
    assert clipped.candidate_scores(torch.tensor([0, 3])).tolist() == [3.0, math.inf]
    ((scores, _),) = FOUR.finite_pieces()
    assert scores.tolist() == [3.0, 1.0, 2.0, 4.0]


def test_a_part_is_counted_by_its_owner_and_a_whole_target_by_the_first_rank():
    part = Shard((4,), (2,), (2,), None, ())
    copy = replace(part, is_owner=False)
    first, second = Ranks.single(), Ranks.single()
    second.rank = 1
    assert (FOUR.local_units, replace(FOUR, shard=part).local_units) == (4, 2)
    assert FOUR.is_owner
    assert [replace(FOUR, ranks=ranks).is_owner for ranks in (first, second)] == [True, False]
    assert [replace(FOUR, ranks=second, shard=shard).is_owner for shard in (part, copy)] == [True, False]


def test_moments_over_ranks_count_each_score_once():
    # The ranks hold two parts of one target, the second of them twice.
    held = [([1.0, 2.0], True), ([3.0, 6.0], True), ([3.0, 6.0], False)]

    def of(ranks):
        values, is_owner = held[ranks.rank]
        shard = Shard((4,), (0,), (2,), None, (), is_owner)
        return moments(replace(Scores.from_tensor("w", torch.tensor(values)), candidates=4, ranks=ranks, shard=shard))

    for mean, std in in_threads(3, of):
        assert mean == 3.0
        assert std == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 4))


def test_moments_of_no_candidates_and_of_equal_scores_are_plain_zeros():
    none = Scores.from_tensor("w", torch.tensor([5.0]), torch.tensor([False]))
    assert moments(none) == (0.0, 0.0)
    mean, std = moments(Scores.from_tensor("w", torch.full((3,), 0.1)))
    assert mean == pytest.approx(0.1)
    assert std == pytest.approx(0.0, abs=1e-7)


def test_a_rank_with_scores_that_are_not_finite_stops_the_others():
    def of(ranks):
        values = torch.tensor([1.0, math.nan if ranks.rank else 2.0])
        return moments(replace(Scores.from_tensor("w", values), ranks=ranks))

    first, second = in_threads(2, of)
    assert str(first).startswith("rank 1 failed: NonFiniteError: scores of w are not finite")
    assert isinstance(second, NonFiniteError)


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.inf], [math.inf, -math.inf], [-math.inf, 1.0]])
def test_what_is_not_finite_is_refused_by_name(values):
    with pytest.raises(NonFiniteError, match="inputs of fc are not finite"):
        check_finite(torch.tensor(values), "inputs of fc")


@pytest.mark.parametrize("values", [[], [1.0, -1.0], [3e38, 3e38], [-3e38, -3e38]])
def test_what_is_finite_is_not_refused_even_if_its_sum_overflows(values):
    check_finite(torch.tensor(values), "inputs of fc")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_and_float64_are_left_as_they_are(dtype):
    scores = torch.ones(1, dtype=dtype)
    assert at_least_float32(scores) is scores


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64])
def test_other_scores_become_float32(dtype):
    assert at_least_float32(torch.ones(1, dtype=dtype)).dtype == torch.float32


def test_moments_of_many_scores_are_summed_in_float64():
    # In float32 the squares, about 1e8, have steps of 8, so that a deviation of 0.5 would be lost.
    scores = Scores.from_tensor("w", torch.tensor([10_000.0, 10_001.0] * 50))
    assert moments(scores) == (10_000.5, pytest.approx(0.5, rel=1e-6))
