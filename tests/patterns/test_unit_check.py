"""Patterns of one's own whose units differ in size between targets, or do not add up."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.patterns import TargetPattern
from lightning_dynprune.targets import Target


@dataclass(frozen=True)
class Undeclared(TargetPattern):
    """Rows of a matrix, whose size is not declared."""

    def pool(self, target: Target, scores: Tensor) -> Tensor:
        return scores.flatten(1).mean(1)

    def expand(self, target: Target, keep: Tensor) -> Tensor:
        return keep.view(-1, 1).expand(target.parameter.shape).clone()


@dataclass(frozen=True)
class Row(Undeclared):
    """Rows of a matrix, as long as each target's are."""

    def unit_size(self, target: Target) -> int:
        return target.parameter.shape[1]


@dataclass(frozen=True)
class Uneven(TargetPattern):
    """Pairs of connections in words, but one unit takes three and one a single connection."""

    @property
    def size(self) -> int:
        return 2

    def pool(self, target: Target, scores: Tensor) -> Tensor:
        return scores.reshape(-1)[::2]

    def expand(self, target: Target, keep: Tensor) -> Tensor:
        sizes = torch.full((len(keep),), 2)
        sizes[: len(keep) // 2], sizes[len(keep) // 2 :] = 1, 3
        return keep.repeat_interleave(sizes).view(target.parameter.shape)


@dataclass(frozen=True)
class Misshapen(Row):
    """Rows, whose masks have another shape."""

    def expand(self, target: Target, keep: Tensor) -> Tensor:
        return super().expand(target, keep).view(-1)


ONCE = {"name": "one_shot", "begin": 1}


def net(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(width, 12, bias=False) for width in widths))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (Undeclared(), r"undeclared: 0\.weight has 96 connections, but pool returns 12 units of 1 and 0 .*unit_size"),
        (Uneven(), r"expand keeps \d+ connections of 0\.weight for \d+ units of 2 .*need the same size"),
        (Misshapen(), r"expand returns torch\.bool of shape \(96,\) for 0\.weight"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_units_that_do_not_add_up_are_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        Pruner(net(8), sparsity=0.5, strategy="magnitude", schedule=ONCE, pattern=pattern)


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    sparsity=st.floats(0, 0.95),
    threshold=st.sampled_from(["global", "uniform", "erk", "fixed", "mean"]),
    seed=st.integers(0, 9),
)
def test_units_of_different_sizes_reach_the_sparsity_in_connections(widths, sparsity, threshold, seed):
    torch.manual_seed(seed)
    model = net(*widths)
    chosen = {"scope": threshold}
    if threshold in ("fixed", "mean"):
        chosen = {"name": threshold, "theta": 9.0} if threshold == "fixed" else {"name": "mean"}
    total, largest = 12 * sum(widths), max(widths)
    sparsity = min(sparsity, 1 - sum(widths) / total)
    pruner = Pruner(
        model, sparsity=sparsity, strategy="magnitude", threshold=chosen, schedule=ONCE, pattern=Row(), total_steps=2
    )
    assert pruner.unit == largest
    pruner.tick()
    pruned = sum(int((layer.weight == 0).sum()) for layer in model)
    if threshold == "mean":
        assert pruned <= sparsity * total + largest / 2
    else:
        assert abs(pruned - sparsity * total) <= largest * (0.5 if threshold in ("global", "fixed") else 1)
    for layer in model:
        assert torch.equal((layer.weight != 0).any(1), (layer.weight != 0).all(1))


@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
def test_exchanged_and_returning_units_of_different_sizes_keep_the_sparsity(scope):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 64, bias=False), nn.Linear(16, 64, bias=False), nn.Linear(29, 64, bias=False))
    total = 64 * (5 + 16 + 29)
    strategy = {"name": "set", "exchange": 0.3, "start": "magnitude"}
    schedule = {"name": "linear", "begin": 1, "end": 20, "every": 1, "initial": 0.9}
    pruner = Pruner(
        model, sparsity=0.4, strategy=strategy, threshold={"scope": scope}, schedule=schedule, pattern=Row()
    )
    for _ in range(20):
        if update := pruner.tick():
            assert abs(update.sparsity - update.scheduled_sparsity) * total <= 29 * (0.5 if scope == "global" else 1)
        for layer in model:
            layer.weight.data += torch.rand_like(layer.weight) * (layer.weight != 0)
    assert abs(pruner.sparsity - 0.4) * total <= 29
