"""Which units a cut keeps: above it, the first of those at it, and those that are protected."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from lightning_dynprune.selection import Cut, Scores
from lightning_dynprune.selection.cut_result import BracketPiece


def scores(values: list[float], size: int, candidates: list[bool] | None = None) -> Scores:
    """Return scores that are read in pieces of ``size``."""
    flat = torch.tensor(values)
    mask = None if candidates is None else torch.tensor(candidates)
    made = Scores.from_tensor("w", flat, mask)
    parts = [(flat[i : i + size], None if mask is None else mask[i : i + size]) for i in range(0, len(values), size)]
    return replace(made, pieces=lambda: iter(parts))


def kept(cut: Cut, of: Scores) -> list[int]:
    return torch.cat(list(cut.keeps(of))).nonzero().view(-1).tolist()


VALUES = [1.0, 2.0, 1.0, 0.0, 1.0, 1.0]


def test_ties_are_kept_from_the_first_over_the_pieces():
    for size in (1, 2, 3, 6):
        assert [kept(Cut(1.0, ties, 1 + ties), scores(VALUES, size)) for ties in range(5)] == [
            [1],
            [0, 1],
            [0, 1, 2],
            [0, 1, 2, 4],
            [0, 1, 2, 4, 5],
        ]


def test_ties_and_scores_above_are_kept_among_candidates_alone():
    candidates = [False, False, True, True, True, True]
    for size in (1, 2, 6):
        assert kept(Cut(1.0, 2, 2), scores(VALUES, size, candidates)) == [2, 4]
        assert kept(Cut(-math.inf, 0, 4), scores(VALUES, size, candidates)) == [2, 3, 4, 5]


def test_protected_units_are_kept_in_every_piece():
    protected = torch.tensor([False, False, False, True, False, True])
    for size in (2, 3, 6):
        assert kept(Cut(1.5, 0, 3), replace(scores(VALUES, size), protected=protected)) == [1, 3, 5]


def test_scores_are_compared_in_the_dtype_of_the_search():
    value = 1.0 + 1e-12  # float32 rounds it to the 1.0 of the scores
    assert kept(Cut(value, 1, 1, dtype=torch.float64), scores(VALUES, 6)) == [1]
    assert kept(Cut(value, 0, 1, dtype=None), scores(VALUES, 6)) == [1]
    assert kept(Cut(1.0, 1, 2, dtype=torch.float64), scores(VALUES, 6)) == [0, 1]


def test_a_bracket_and_scratch_bits_tell_the_same_without_new_scores():
    # Bit 1 says that a unit is above the bracket; bit 0 is the mask.
    bits = torch.tensor([1, 3, 0, 0, 1, 1], dtype=torch.uint8)
    inside = [
        BracketPiece(3, torch.tensor([0, 2], dtype=torch.int32), torch.tensor([1.0, 1.0])),
        BracketPiece(3, torch.tensor([1, 2], dtype=torch.int32), torch.tensor([1.5, 1.0])),
    ]

    def never() -> None:
        raise AssertionError("the scores were asked for again")

    of = replace(scores(VALUES, 3), pieces=never, scratch_bits=bits)
    assert kept(Cut(1.0, 0, 2, bracket=inside), of) == [1, 4]
    assert kept(Cut(1.0, 2, 4, bracket=inside), of) == [0, 1, 2, 4]
    assert kept(Cut(1.0, 3, 5, bracket=inside), of) == [0, 1, 2, 4, 5]
