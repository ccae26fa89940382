"""The exact cut, held against a stable sort."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_dynprune.selection import Cut, Scores, bracket_search, cut, cut_above, moments
from lightning_dynprune.selection.scores import NonFiniteError


def split(scores: list[Tensor], size: int, masks: list[Tensor] | None = None, min_kept: int = 0) -> list[Scores]:
    """Return scores read in pieces of ``size``."""
    made = []
    for i, flat in enumerate(scores):
        mask = None if masks is None else masks[i]

        def pieces(flat=flat, mask=mask):
            for start in range(0, flat.numel(), size):
                stop = start + size
                yield flat[start:stop], None if mask is None else mask[start:stop]

        def sample(index, flat=flat, mask=mask):
            return flat[index], None if mask is None else mask[index]

        count = flat.numel() if mask is None else int(mask.sum())
        made.append(Scores(f"t{i}", flat.numel(), count, pieces, sample, min_kept=min_kept, shape=tuple(flat.shape)))
    return made


def kept(cuts: list[Cut], scores: list[Scores]) -> list[bool]:
    return [flag for c, s in zip(cuts, scores, strict=True) for piece in c.keeps(s) for flag in piece.tolist()]


def by_sorting(keep: int, scores: list[Tensor], masks: list[Tensor] | None = None) -> list[bool]:
    """Keep the best by a stable sort: ties in order of (target, flat index)."""
    flat = [float(x) for s in scores for x in s]
    allowed = [True] * len(flat) if masks is None else [bool(x) for m in masks for x in m]
    order = sorted((i for i in range(len(flat)) if allowed[i]), key=lambda i: -flat[i])
    chosen = set(order[:keep])
    return [i in chosen for i in range(len(flat))]


def values(dtype: torch.dtype) -> st.SearchStrategy[float]:
    ties = st.sampled_from([0.0, -0.0, 1.0, 1e-45, 1e-40, -1.0, 0.5])
    return ties | st.floats(-1e4, 1e4, width=32)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Tensor], list[Tensor] | None, int, int]:
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(lambda s: sum(s) > 0))
    dtypes = [draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])) for _ in sizes]
    scores = [
        torch.tensor(draw(st.lists(values(d), min_size=n, max_size=n)), dtype=d)
        for n, d in zip(sizes, dtypes, strict=True)
    ]
    masked = draw(st.booleans())
    masks = (
        [torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=torch.bool) for n in sizes]
        if masked
        else None
    )
    return scores, masks, draw(st.integers(0, sum(sizes))), draw(st.sampled_from([1, 3, 8, 64]))


@settings(max_examples=300, deadline=None)
@given(problems())
# The cut lies at a float64 score that float32 would round up to one of its own.
@example(([torch.tensor([0.0, 1e-45]), torch.tensor([1.0, 1e-45], dtype=torch.float64)], None, 3, 64))
def test_cut_equals_a_stable_sort(problem):
    scores, masks, keep, size = problem
    made = split(scores, size, masks)
    cuts = cut(keep, made)
    expected = by_sorting(keep, scores, masks)
    assert kept(cuts, made) == expected
    assert sum(c.kept for c in cuts) == sum(expected)


@pytest.mark.parametrize("keep", [1, 7, 999, 50_000, 150_000, 299_999])
@pytest.mark.parametrize("kind", ["normal", "zeros", "levels", "constant", "two values", "skewed"])
def test_cut_of_many_scores_equals_a_stable_sort(kind, keep, monkeypatch):
    monkeypatch.setattr(bracket_search, "_COLLECT_ALL_BELOW", 1000)  # so that brackets and pivots are used at this size
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(300_000, generator=generator)
    x = {
        "normal": x.abs(),
        "zeros": torch.where(torch.rand(300_000, generator=generator) < 0.8, 0.0, x.abs()),
        "levels": (x * 3).round().abs(),
        "constant": torch.full_like(x, 0.25),
        "two values": (x > 1).float(),
        "skewed": x.exp().pow(6),
    }[kind]
    scores = split([x[:1000], x[1000:200_000], x[200_000:]], 2**15)
    got = torch.tensor(kept(cut(keep, scores), scores))
    order = x.sort(descending=True, stable=True).indices[:keep]
    expected = torch.zeros(300_000, dtype=torch.bool).index_fill_(0, order, True)
    assert torch.equal(got, expected)


def test_a_bracket_that_misses_is_tried_again(monkeypatch):
    monkeypatch.setattr(bracket_search, "_COLLECT_ALL_BELOW", 0)
    monkeypatch.setattr(bracket_search, "_SIGMAS", 0.0)
    passes = []
    scan = bracket_search._scan
    monkeypatch.setattr(bracket_search, "_scan", lambda *args: passes.append(args) or scan(*args))
    x = torch.rand(50_000, generator=torch.Generator().manual_seed(2))
    scores = split([x], 4096)
    got = torch.tensor(kept(cut(20_000, scores), scores))
    assert torch.equal(got, x >= x.sort(descending=True).values[19_999])
    assert len(passes) > 1


def test_ties_break_by_target_then_index():
    scores = split([torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])], 2)
    assert kept(cut(3, scores), scores) == [True, True, False, True, False]


def test_every_target_keeps_its_floor_and_the_total_stays_exact():
    scores = split([torch.tensor([0.1, 0.2]), torch.arange(1.0, 9.0)], 3, min_kept=1)
    cuts = cut(4, scores)
    assert [c.kept for c in cuts] == [1, 3]
    assert kept(cuts, scores)[:2] == [False, True]


def test_floors_above_the_count_asked_for_win():
    scores = split([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], 2, min_kept=1)
    assert [c.kept for c in cut(0, scores)] == [1, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_scores_that_are_not_finite_are_refused_by_name(bad, keep):
    scores = split([torch.tensor([1.0, 2.0]), torch.tensor([bad])], 2)
    with pytest.raises(NonFiniteError, match="scores of t1 are not finite"):
        cut(keep, scores)


def test_a_sum_that_overflows_is_no_bad_score():
    scores = split([torch.tensor([3e38, 3e38, 1.0])], 3)
    assert kept(cut(1, scores), scores) == [True, False, False]


def test_cut_above_is_strict_and_heeds_the_floor():
    s = split([torch.tensor([0.5, 0.3, 0.1])], 2, min_kept=1)[0]
    assert cut_above(0.3, s) == Cut(0.3, 0, 1)
    assert kept([cut_above(9.0, s)], [s]) == [True, False, False]


def test_moments_are_of_the_candidates_alone():
    mask = torch.tensor([True, True, False, True])
    s = split([torch.tensor([1.0, 2.0, 100.0, 6.0])], 2, [mask])[0]
    mean, std = moments(s)
    assert mean == 3.0
    assert std == pytest.approx(math.sqrt((4 + 1 + 9) / 3))
