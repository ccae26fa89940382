"""Cuts of targets that ranks hold in parts or in copies: each rank keeps of its part what one process would keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_dynprune.distributed import Shard
from lightning_dynprune.selection import Scores, bracket_search, cut, cut_above, cut_each
from lightning_dynprune.selection.scores import NonFiniteError
from tests.distributed.threads import ThreadRanks, in_threads

SHAPE = (6, 4)
# What each of three ranks holds: (offset, size, whether it counts the box) of a sharded target, None of a whole one.
LAYOUTS = {
    "rows": [((0, 0), (2, 4), True), ((2, 0), (2, 4), True), ((4, 0), (2, 4), True)],
    "columns": [((0, 0), (6, 1), True), ((0, 1), (6, 1), True), ((0, 2), (6, 2), True)],
    "copies": [((0, 0), (3, 4), True), ((3, 0), (3, 4), True), ((3, 0), (3, 4), False)],
    "nothing on the last": [((0, 0), (4, 4), True), ((4, 0), (2, 4), True), ((6, 0), (0, 4), True)],
    "whole": [None, None, None],
}


def matrices(kind: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    two = [torch.randn(SHAPE, generator=generator) for _ in range(2)]
    if kind == "ties":
        return [matrix.mul(1.5).round() for matrix in two]
    return two if kind == "floats" else [two[0], two[1].double() + 1e-9]


def parts(ranks: ThreadRanks, layout: str, wholes: list[Tensor], min_kept: int = 1) -> list[Scores]:
    """Return the scores of the parts that one rank holds of each target."""
    held = LAYOUTS[layout][ranks.rank]
    made = []
    for number, whole in enumerate(wholes):
        shard = None if held is None else Shard(SHAPE, *held[:2], None, (), held[2])
        part = whole if shard is None else shard.local_box(whole)
        scores = Scores.from_tensor(f"t{number}", part, min_kept=min_kept)
        made.append(replace(scores, units=whole.numel(), candidates=whole.numel(), ranks=ranks, shard=shard))
    return made


def kept(cuts: list, scores: list[Scores]) -> list[list[bool]]:
    return [next(c.keeps(s)).tolist() for c, s in zip(cuts, scores, strict=True)]


def expected(rank: int, layout: str, masks: list[list[bool]]) -> list[list[bool]]:
    """Return what a rank keeps of the masks of the whole targets."""
    held = LAYOUTS[layout][rank]
    wholes = [torch.tensor(mask).view(SHAPE) for mask in masks]
    shard = None if held is None else Shard(SHAPE, *held[:2], None, ())
    return [(whole if shard is None else shard.local_box(whole)).reshape(-1).tolist() for whole in wholes]


def check(layout: str, kind: str, cuts_of: Callable[[list[Scores]], list]) -> None:
    wholes = matrices(kind)
    alone = [Scores.from_tensor(f"t{number}", whole) for number, whole in enumerate(wholes)]
    cuts = cuts_of(alone)
    masks = kept(cuts, alone)

    def on_rank(ranks: ThreadRanks):
        own = parts(ranks, layout, wholes)
        found = cuts_of(own)
        return [c.kept for c in found], [c.value for c in found], kept(found, own)

    for rank, result in enumerate(in_threads(3, on_rank)):
        assert not isinstance(result, Exception), result
        counts, values, got = result
        assert counts == [c.kept for c in cuts]
        assert values == [c.value for c in cuts]
        assert got == expected(rank, layout, masks), f"rank {rank}"


@pytest.mark.parametrize("kind", ["floats", "ties", "two dtypes"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_cut_over_all_targets_is_that_of_one_process(layout, kind):
    for keep in (0, 1, 13, 20, 47, 48):
        check(layout, kind, lambda scores, keep=keep: cut(keep, scores))


@pytest.mark.parametrize("kind", ["floats", "ties", "two dtypes"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cuts_of_each_target_are_those_of_one_process(layout, kind):
    for keeps in ([1, 23], [12, 24], [0, 9]):
        check(layout, kind, lambda scores, keeps=keeps: cut_each(keeps, scores))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_cut_above_a_value_is_that_of_one_process(layout):
    for value in (-1.0, 0.0, 99.0):
        check(layout, "ties", lambda scores, value=value: [cut_above(value, s) for s in scores])


@pytest.mark.parametrize("layout", ["rows", "columns", "copies"])
@pytest.mark.parametrize("kind", ["floats", "ties"])
def test_brackets_and_pivots_find_the_same(layout, kind, monkeypatch):
    monkeypatch.setattr(bracket_search, "_COLLECT_ALL_BELOW", 0)
    for keep in (1, 13, 47):
        check(layout, kind, lambda scores, keep=keep: cut(keep, scores))


def test_a_score_that_is_not_finite_is_told_to_all_ranks():
    wholes = matrices("floats")
    wholes[1][5, 3] = torch.nan

    def on_rank(ranks: ThreadRanks):
        return cut(9, parts(ranks, "rows", wholes))

    first, second, third = in_threads(3, on_rank)
    assert isinstance(third, NonFiniteError)
    assert {str(first), str(second)} == {f"rank 2 failed: NonFiniteError: {third}"}
