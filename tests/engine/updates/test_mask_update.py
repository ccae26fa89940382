"""Masks written by an update: what stays, what returns, and what an update that failed leaves behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from lightning_dynprune.engine.updates.mask_update import Changes, UpdateRequest, update_masks
from lightning_dynprune.engine.updates.score_reader import scores_of
from lightning_dynprune.masks import MaskSet
from lightning_dynprune.patterns import Element, TargetPattern
from lightning_dynprune.selection import Cut, Scores, bracket_search
from lightning_dynprune.strategies import Magnitude, Strategy
from lightning_dynprune.targets import Target, TargetView
from lightning_dynprune.thresholds import Fixed, TopK


class Stopped(Exception):
    """Raised by the parts of these tests."""


@dataclass(frozen=True)
class ByGrad(Magnitude):
    """Keeps by size, and lets connections return by the gradient, of any sign."""

    exchange: float = 0.3
    elementwise: ClassVar[bool] = True

    def grow(self, target: TargetView) -> Tensor:
        return target.gradient()


@dataclass(frozen=True)
class Stops(TopK):
    """Raises once it has read the scores: when it cuts, or when it selects what returns."""

    when: str = "cut"

    def cut_to_count(self, keep: int, scores: Sequence[Scores]) -> list[Cut]:
        cuts = super().cut_to_count(keep, scores)
        if self.when == "cut":
            raise Stopped
        return cuts

    def select_grown(self, count: int, growth_scores: Sequence[Scores], kept: Sequence[int]) -> list[Cut]:
        super().select_grown(count, growth_scores, kept)
        raise Stopped


def masked(*weights: list | Tensor, grads: Sequence[list] = (), pruned: Sequence[Sequence[int]] = ()) -> MaskSet:
    """Return masks over weights, of which the entries at some flat indices are pruned."""
    parameters = [nn.Parameter(torch.as_tensor(weight, dtype=torch.float32)) for weight in weights]
    for parameter, grad in zip(parameters, grads, strict=False):
        parameter.grad = torch.tensor(grad)
    masks = MaskSet([Target(f"w{number}", parameter) for number, parameter in enumerate(parameters)])
    for position, indices in enumerate(pruned):
        keep = torch.ones(masks.targets[position].numel, dtype=torch.bool)
        keep[list(indices)] = False
        masks.write(position, [keep])
    masks.apply()
    return masks


def update(masks: MaskSet, sparsity: float, strategy: Strategy, threshold=None, pattern=None, **settings) -> Changes:
    """Update the masks; ``seen`` gets what is told of each target."""
    seen = settings.pop("seen", [])
    remember = settings.pop("remember", False)
    request = UpdateRequest(strategy, threshold or TopK(), sparsity, **settings)
    views = [target.view(mask) for target, mask in zip(masks.targets, masks.tensors, strict=True)]
    return update_masks(
        masks,
        views,
        pattern or Element(),
        request,
        lambda position, before: seen.append((position, None if before is None else before.clone())),
        remember,
    )


def bytes_of(masks: MaskSet) -> list[list[int]]:
    return [mask.view(torch.uint8).reshape(-1).tolist() for mask in masks.tensors]


def test_the_smallest_are_dropped_over_all_targets():
    masks = masked([1.0, 5.0, 2.0], [3.0, 0.5, 4.0])
    assert update(masks, 0.5, Magnitude()) == Changes([3.0, 3.0], [2, 1], [0, 0])
    assert bytes_of(masks) == [[0, 1, 0], [1, 0, 1]]
    assert masks.kept == [1, 2]


@pytest.mark.parametrize("remember", [False, True])
def test_each_target_is_told_in_order_with_the_mask_before_if_that_is_remembered(remember):
    masks, seen = masked([1.0, 5.0], [3.0, 0.5], pruned=[[0], []]), []
    update(masks, 0.5, Magnitude(), seen=seen, remember=remember)
    assert [position for position, _ in seen] == [0, 1]
    before = [None if mask is None else mask.tolist() for _, mask in seen]
    assert before == ([[False, True], [True, True]] if remember else [None, None])


def test_of_the_units_kept_a_share_is_exchanged_for_those_with_the_largest_gradient():
    # Of 8 connections 4 are kept; half of them, the smallest, go, and of the six pruned then the two best come.
    grads = [[0.0, 0.0, 9.0, 1.0, 0.0, 2.0, 8.0, 3.0]]
    masks = masked([4.0, 3.0, 2.0, 1.0, 0, 0, 0, 0], grads=grads, pruned=[[4, 5, 6, 7]])
    seen: list = []
    changes = update(masks, 0.5, ByGrad(), exchange=0.5, seen=seen)
    # Connection 2 was dropped and returned at once: it counts as neither.
    assert bytes_of(masks) == [[1, 1, 1, 0, 0, 0, 1, 0]]
    assert (changes.dropped, changes.grown, masks.kept) == ([1], [1], [4])
    assert seen[0][1].tolist() == [True] * 4 + [False] * 4


def test_where_the_sparsity_falls_the_difference_returns():
    masks = masked([4.0, 3.0, 0, 0], grads=[[0.0, 0.0, 1.0, 2.0]], pruned=[[2, 3]])
    changes = update(masks, 0.25, ByGrad())
    assert bytes_of(masks) == [[1, 1, 0, 1]]
    assert (changes.dropped, changes.grown) == ([0], [1])


def test_a_strategy_without_growth_lets_any_return():
    masks = masked([4.0, 3.0, 0, 0], pruned=[[2, 3]])
    assert update(masks, 0.0, Magnitude()).grown == [2]
    assert bytes_of(masks) == [[1, 1, 1, 1]]


def test_nothing_is_exchanged_while_nothing_is_or_becomes_pruned():
    masks = masked([4.0, 3.0], grads=[[1.0, 2.0]])
    assert update(masks, 0.0, ByGrad(), exchange=0.5) == Changes([-math.inf], [0], [0])


def test_a_first_cut_exchanges_too():
    # All eight are kept and four are to go: three of the best stay, and the best gradient of the others comes.
    masks = masked([[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]], grads=[[[0.0, 0, 0, 1, 2, 9, 3, 4]]])
    changes = update(masks, 0.5, ByGrad(), exchange=0.25)
    assert bytes_of(masks) == [[1, 1, 1, 0, 0, 1, 0, 0]]
    assert (changes.dropped, changes.grown) == ([4], [0])


def test_a_threshold_on_values_exchanges_a_share_of_what_it_keeps():
    # Above 2.5 lie four; half of them are exchanged although the sparsity would leave two.
    masks = masked([6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0, 0], grads=[[0.0, 0, 0, 0, 0, 5, 4, 0]], pruned=[[6, 7]])
    update(masks, 0.75, ByGrad(), threshold=Fixed(2.5), exchange=0.5)
    assert masks.kept == [4]
    assert bytes_of(masks) == [[1, 1, 0, 0, 0, 1, 1, 0]]


@dataclass(frozen=True)
class Row(TargetPattern):
    """Rows of a matrix, as long as each target's are."""

    def pool(self, target: Target, scores: Tensor) -> Tensor:
        return scores.mean(1)

    def expand(self, target: Target, keep: Tensor) -> Tensor:
        return keep.view(-1, 1).expand(target.parameter.shape).clone()

    def unit_size(self, target: Target) -> int:
        return target.parameter.shape[1]


def test_returning_units_of_different_sizes_bring_the_connections_wanted():
    # Units of 4 connections and units of 1: the best four of 4 + 1 + 4 + 1 ... by gradient bring 10 of 40.
    wide, narrow = torch.ones(8, 4), torch.ones(8, 1)
    grads = [[[8.0 - row] * 4 for row in range(8)], [[7.5 - row] for row in range(8)]]
    masks = masked(wide, narrow, grads=grads, pruned=[range(32), range(8)])
    changes = update(masks, 0.75, ByGrad(), pattern=Row())
    assert bytes_of(masks)[0] == [1] * 8 + [0] * 24
    assert bytes_of(masks)[1] == [1] * 2 + [0] * 6
    assert (changes.grown, changes.dropped) == ([8, 2], [0, 0])


@pytest.fixture
def _brackets(monkeypatch):
    """Search by brackets, which write scratch bits, however few the scores are."""
    monkeypatch.setattr(bracket_search, "_COLLECT_ALL_BELOW", 0)


def random_masks(pruned: bool = True) -> tuple[MaskSet, Tensor]:
    weight = torch.rand(4096, generator=torch.Generator().manual_seed(0)) + 0.1
    gone = (torch.rand(4096, generator=torch.Generator().manual_seed(1)) < 0.3).nonzero().view(-1).tolist()
    return masked(weight, grads=[weight.flip(0).tolist()], pruned=[gone] if pruned else []), weight


@pytest.mark.parametrize(("among", "candidates"), [("living", [1, 1, 0, 0]), ("pruned", [0, 0, 1, 1])])
def test_scratch_bits_do_not_change_which_units_are_candidates(among, candidates):
    masks = masked([1.0, 2.0, 0.0, 0.0], pruned=[[2, 3]])
    masks.scratch_bits(0).copy_(torch.tensor([1, 3, 0, 2], dtype=torch.uint8))
    view = masks.targets[0].view(masks.tensors[0])
    scores = scores_of(masks.targets[0], view, Magnitude().score, Element(), 2, elementwise=True, among=among)
    ((_, chosen),) = scores.pieces()
    assert chosen.view(torch.uint8).tolist() == candidates


@dataclass(frozen=True)
class AnyByGrad(ByGrad):
    """Keeps by the gradient, among pruned connections too."""

    latent: ClassVar[bool] = True

    def score(self, target: TargetView) -> Tensor:
        return target.gradient()


@pytest.mark.usefixtures("_brackets")
@pytest.mark.parametrize("strategy", [ByGrad(), AnyByGrad()])
@pytest.mark.parametrize("exchange", [0.0, 0.3])
def test_the_mask_before_is_told_without_scratch_bits(strategy, exchange):
    masks, _ = random_masks()
    before, seen = bytes_of(masks), []
    update(masks, 0.5, strategy, exchange=exchange, seen=seen, remember=True)
    assert [mask.view(torch.uint8).reshape(-1).tolist() for _, mask in seen] == before


@pytest.mark.usefixtures("_brackets")
@pytest.mark.parametrize(("when", "exchange"), [("cut", 0.0), ("grown", 0.3)])
def test_an_update_that_fails_leaves_masks_of_zeros_and_ones_and_its_retry_is_exact(when, exchange):
    masks, _ = random_masks()
    before, kept = bytes_of(masks), list(masks.kept)
    with pytest.raises(Stopped):
        update(masks, 0.5, ByGrad(), threshold=Stops(when=when), exchange=exchange)
    assert bytes_of(masks) == before
    assert masks.kept == kept
    fresh, _ = random_masks()
    assert update(masks, 0.5, ByGrad(), exchange=exchange) == update(fresh, 0.5, ByGrad(), exchange=exchange)
    assert bytes_of(masks) == bytes_of(fresh)


@pytest.mark.usefixtures("_brackets")
def test_what_is_alive_is_read_without_the_bits_of_a_bracket_that_missed(monkeypatch):
    monkeypatch.setattr(bracket_search, "_SIGMAS", 0.0)
    masks, weight = random_masks()
    alive = masks.tensors[0].clone()
    changes = update(masks, 0.6, Magnitude())
    best = torch.where(alive, weight, 0.0).topk(4096 - round(0.6 * 4096)).indices
    expected = torch.zeros(4096, dtype=torch.bool).index_fill_(0, best, True)
    assert bytes_of(masks) == [expected.int().tolist()]
    assert changes.dropped == [int(alive.sum()) - best.numel()]


@pytest.mark.usefixtures("_brackets")
@pytest.mark.parametrize("remember", [False, True])
def test_the_mask_before_holds_no_scratch_bits(remember):
    masks, _ = random_masks()
    before, seen = bytes_of(masks), []
    update(masks, 0.5, ByGrad(), exchange=0.0 if remember else 0.3, remember=remember, seen=seen)
    assert [mask.view(torch.uint8).tolist() for _, mask in seen] == before


@dataclass(frozen=True)
class Latent(Magnitude):
    """Keeps the largest of all connections, pruned ones too."""

    latent: ClassVar[bool] = True


@pytest.mark.usefixtures("_brackets")
def test_a_pruned_connection_above_the_bracket_counts_as_grown():
    masks, weight = random_masks()
    alive = masks.tensors[0].clone()
    masks.targets[0].parameter.data.copy_(weight)  # the values behind the mask
    changes = update(masks, 0.5, Latent())
    expected = torch.zeros(4096, dtype=torch.bool).index_fill_(0, weight.topk(2048).indices, True)
    assert bytes_of(masks) == [expected.int().tolist()]
    assert changes.grown == [int((expected & ~alive).sum())]
    assert changes.dropped == [int((alive & ~expected).sum())]


def test_what_returns_is_read_without_the_bits_of_a_bracket_that_missed(monkeypatch):
    whole, _ = random_masks()
    expected = update(whole, 0.5, ByGrad(), exchange=0.3)
    monkeypatch.setattr(bracket_search, "_COLLECT_ALL_BELOW", 0)
    monkeypatch.setattr(bracket_search, "_SIGMAS", 0.0)
    masks, _ = random_masks()
    assert update(masks, 0.5, ByGrad(), exchange=0.3) == expected
    assert bytes_of(masks) == bytes_of(whole)
