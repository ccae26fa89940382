"""The bracket that a sample suggests, and what one pass counts and collects against it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lightning_dynprune.selection import Scores, bracket_search
from lightning_dynprune.selection.bracket_search import Search, _bracket, _scan, _score_at_rank, draw_sample

TEN = torch.arange(10.0)


def test_a_rank_of_the_sample_is_its_score_and_beyond_it_the_bound():
    assert [_score_at_rank(TEN, rank, 99.0) for rank in (-1, 0, 3, 9, 10)] == [99.0, 9.0, 6.0, 0.0, 99.0]


def test_a_bracket_lies_around_the_share_and_inside_the_bounds():
    sample = torch.arange(10_000.0)
    bottom, top = _bracket(sample, 0.25, -math.inf, math.inf, 1.0)
    margin = 6 * math.sqrt(10_000 * 0.25 * 0.75) + 1
    assert (top, bottom) == (9_999 - math.floor(2500 - margin), 9_999 - math.ceil(2500 + margin))
    assert _bracket(sample, 0.25, 7450.0, 7550.0, 1.0) == (7450.0, 7550.0)
    assert _bracket(sample, 0.25, bottom, top, 1.0) == (bottom, top)


def test_a_bracket_that_would_hold_too_many_is_one_score():
    sample = torch.cat([torch.arange(100.0) + 1, torch.zeros(900)])
    assert _bracket(sample, 0.5, -math.inf, math.inf, 0.2) == (0.0, 0.0)
    assert _bracket(torch.arange(1000.0), 0.5, -math.inf, math.inf, 0.1) == (499.0, 499.0)


def test_a_small_sample_leaves_the_bounds():
    assert _bracket(TEN, 0.5, -math.inf, math.inf, 2.0) == (-math.inf, math.inf)


@pytest.mark.parametrize("bits", [None, torch.tensor([1, 1, 3, 0, 2], dtype=torch.uint8)])
def test_a_pass_counts_above_and_collects_inside_with_both_ends(bits):
    candidates = torch.tensor([True, True, True, False, True])
    scores = replace(Scores.from_tensor("w", torch.tensor([1.0, 5.0, 3.0, 3.0, 4.0]), candidates), scratch_bits=bits)
    found = _scan(scores, 1.0, 3.0, torch.float32)
    assert (found.above, found.inside) == (2, 2)
    (piece,) = found.pieces
    assert (piece.units, piece.positions.tolist(), piece.values.tolist()) == (5, [0, 2], [1.0, 3.0])
    # Bit 0, the mask, stays; bit 1 says what is above, whatever an earlier pass left there.
    assert bits is None or bits.tolist() == [1, 3, 1, 0, 2]


def test_a_pass_only_counts_ties_with_one_score():
    found = _scan(Scores.from_tensor("w", torch.tensor([1.0, 5.0, 3.0, 3.0])), 3.0, 3.0, torch.float32)
    assert (found.above, found.inside, found.pieces, found.values) == (1, 2, None, [])


def test_a_search_that_misses_moves_its_bound_to_the_next_float():
    scores = [Scores.from_tensor("w", torch.tensor([1.0, 2.0, 3.0, 4.0]))]

    def missed(keep: int) -> tuple[bool, float, float]:
        search = Search(keep, scores, torch.tensor([2.0]), bottom=2.0, top=3.0)
        search.found = [_scan(scores[0], 2.0, 3.0, torch.float32)]
        return search.has_missed(), search.low, search.high

    up, down = 3.0 + 2.0**-22, 2.0 - 2.0**-23
    assert missed(1) == (True, up, math.inf)  # the best score lies above the bracket
    assert missed(2) == (False, -math.inf, math.inf)
    assert missed(3) == (False, -math.inf, math.inf)
    assert missed(4) == (True, -math.inf, down)


def test_a_sample_takes_one_candidate_of_each_stretch():
    sample = draw_sample([Scores.from_tensor("w", torch.arange(10_000.0))], most=100)
    assert sample.shape == (100,)
    assert (sample / 100).floor().tolist() == list(range(100))


def test_a_sample_reads_all_targets_in_proportion_and_is_float64_where_one_is():
    few, many = torch.full((1000,), 1.0), torch.full((3000,), 2.0)
    scores = [Scores.from_tensor("few", few), Scores.from_tensor("many", many)]
    assert draw_sample(scores, most=40).tolist() == [1.0] * 10 + [2.0] * 30
    scores[0] = Scores.from_tensor("few", few.double())
    assert draw_sample(scores, most=40).dtype == torch.float64
    assert draw_sample(scores[1:], most=40).dtype == torch.float32


@pytest.mark.parametrize(("units", "size"), [(2**19 - 1, 2**12), (2**19, 2**14), (2**22 - 1, 2**14), (2**22, 2**17)])
def test_the_sample_grows_with_the_number_of_units(units, size):
    values = torch.zeros(1).expand(units)
    made = Scores("w", units, units, lambda: iter([(values, None)]), lambda index: (values[index], None))
    assert draw_sample([made], most=2**18).numel() == size


@pytest.mark.parametrize("extra", [0, 1])
def test_all_scores_of_few_units_are_collected(extra, monkeypatch):
    monkeypatch.setattr(bracket_search, "_COLLECT_ALL_BELOW", 100)
    values = torch.cat([torch.ones(50 + extra), torch.zeros(50)])
    search = Search(20, [Scores.from_tensor("w", values)], torch.ones(40))
    search.scan()
    assert search.has_collected is (not extra)


def test_scratch_bits_of_the_third_piece_are_written_behind_those_of_the_second():
    bits = torch.ones(6, dtype=torch.uint8)
    pieces = [torch.tensor([5.0, 1.0]), torch.tensor([1.0, 5.0]), torch.tensor([5.0, 1.0])]
    scores = Scores("w", 6, 6, lambda: iter([(piece, None) for piece in pieces]), lambda index: (index, None))
    _scan(replace(scores, scratch_bits=bits), 2.0, 3.0, torch.float32)
    assert bits.tolist() == [3, 1, 1, 3, 3, 1]
