"""Each threshold's own rule, on numbers worked out by hand; the blog article's examples among them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.schedules import Linear
from lightning_dynprune.selection import Scores
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import Target
from lightning_dynprune.thresholds import Fixed, Mean, Std, TopK
from lightning_dynprune.thresholds.topk import allocate

# The worked example of the article: a 3x3 matrix and theta = 0.3.
ARTICLE = [[0.5, 0.3, 0.1], [0.2, 0.4, 0.7], [0.1, 0.6, 0.8]]


class Itself(Strategy):
    """The weight itself, as the article's code compares it."""

    def score(self, target):
        return target.weight


def pruned_once(weight: list[list[float]], **settings) -> Tensor:
    net = nn.Linear(len(weight[0]), len(weight), bias=False)
    net.weight.data = torch.tensor(weight)
    settings = {"strategy": "magnitude", **settings}
    pruner = Pruner(net, sparsity=0.99, schedule={"name": "one_shot", "begin": 1}, **settings)
    pruner.tick()
    pruner.close()
    return net.weight.detach()


def test_article_by_its_formula_nothing_is_pruned():
    # f(w) = 1 / (1 + e^-w) is at least f(0.1) = 0.525 for every entry, and 0.525 > 0.3.
    for signed in (True, False):
        weight = pruned_once(ARTICLE, strategy={"name": "sigmoid", "signed": signed}, threshold=Fixed(0.3))
        assert torch.equal(weight, torch.tensor(ARTICLE))


def test_article_by_its_code_five_entries_stay():
    weight = pruned_once(ARTICLE, strategy=Itself(), threshold=Fixed(0.3))
    assert weight.tolist() == torch.tensor([[0.5, 0, 0], [0, 0.4, 0.7], [0, 0.6, 0.8]]).tolist()


def test_article_mean_rule_at_rate_a_tenth_on_the_same_matrix():
    # mean(w) = 3.7 / 9 = 0.4111, theta = 0.37: 0.5, 0.4, 0.7, 0.6 and 0.8 stay.
    weight = pruned_once(ARTICLE, strategy="magnitude", threshold=Mean(0.1))
    assert weight.tolist() == torch.tensor([[0.5, 0, 0], [0, 0.4, 0.7], [0, 0.6, 0.8]]).tolist()
    # mean(f) = 0.5989, theta = 0.539, which is f(0.1563): only the two entries of 0.1 go.
    weight = pruned_once(ARTICLE, strategy={"name": "sigmoid", "signed": True}, threshold=Mean(0.1))
    assert weight.tolist() == torch.tensor([[0.5, 0.3, 0], [0.2, 0.4, 0.7], [0, 0.6, 0.8]]).tolist()


@pytest.mark.filterwarnings("ignore:.*is down to min_kept")
def test_the_mean_rule_at_every_batch_cannot_empty_a_layer():
    # The article's loop, which ends in a network of zeros: equal weights, so that the mean rule takes all of a layer.
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for layer in net:
        nn.init.constant_(layer.weight, 0.25)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net[0].bias.detach().clone()
    pruner = Pruner(
        net,
        optimizer,
        sparsity=0.99,
        strategy={"name": "sigmoid", "signed": True},
        threshold=Mean(rate=-0.1),
        schedule={"name": "constant", "begin": 1, "end": 50, "every": 1},
    )
    for _ in range(50):
        optimizer.zero_grad()
        net(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        pruner.tick()
        assert all(kept >= 1 for kept in pruner.masks.kept)
    assert not torch.equal(net[0].bias, before)  # and the optimizer did step
    assert net[0].weight.requires_grad


def of(*tensors: list[float]) -> list[Scores]:
    return [Scores.from_tensor(f"t{i}", torch.tensor(t)) for i, t in enumerate(tensors)]


def keeps(threshold, scores, sparsity):
    return [torch.cat(list(c.keeps(s))).tolist() for c, s in zip(threshold.cut(scores, sparsity), scores, strict=True)]


def test_std_cuts_at_mean_plus_c_standard_deviations():
    # mean 3, std sqrt(14 / 3) = 2.16: with c = -0.5 the cut is 1.92.
    assert keeps(Std(-0.5), of([1.0, 2.0, 6.0]), 0.9) == [[False, True, True]]
    assert keeps(Std(1.0), of([1.0, 2.0, 6.0]), 0.9) == [[False, False, True]]


@pytest.mark.parametrize("threshold", [Fixed(10.0), Mean(-9.0), Std(9.0)], ids=str)
def test_the_scheduled_sparsity_is_the_ceiling_of_a_data_driven_threshold(threshold):
    # The rule would take everything; at 40 % only the four worst of ten may go, over both targets.
    assert keeps(threshold, of([1.0, 5.0, 2.0, 6.0, 9.0], [3.0, 4.0, 7.0, 8.0, 9.5]), 0.4) == [
        [False, True, False, True, True],
        [False, False, True, True, True],
    ]


def test_under_the_ceiling_what_the_rule_keeps_stays_and_its_best_rejects_fill_up():
    # theta 4 rejects 1, 2 | 3, 3.5; at 20 % two of ten may go: the two worst rejects.
    scores = of([1.0, 2.0, 5.0, 6.0, 7.0], [3.0, 3.5, 5.0, 6.0, 7.0])
    assert keeps(Fixed(4.0), scores, 0.2) == [[False, False, True, True, True], [True] * 5]
    assert keeps(Fixed(4.0), scores, 0.9) == [[False, False, True, True, True], [False, False, True, True, True]]


def test_a_rule_relative_to_the_living_prunes_on_until_the_ceiling():
    torch.manual_seed(0)
    net = nn.Linear(100, 100, bias=False)
    schedule = {"name": "constant", "begin": 1, "end": 40, "every": 1}
    pruner = Pruner(net, sparsity=0.8, threshold=Mean(0.1), strategy="magnitude", schedule=schedule, total_steps=40)
    reached = []
    for _ in range(40):
        pruner.tick()
        reached.append(pruner.sparsity)
    assert reached[0] < 0.5
    assert reached == sorted(reached)
    assert reached[-1] == pytest.approx(0.8)


def test_a_setting_may_be_a_schedule():
    net = nn.Linear(10, 1, bias=False)
    net.weight.data = torch.arange(1.0, 11.0).view(1, 10)
    theta = Linear(8.0, initial=0.0, begin=2, end=4, every=1)
    schedule = {"name": "constant", "begin": 1, "end": 4, "every": 1}
    pruner = Pruner(net, sparsity=0.9, threshold=Fixed(theta), strategy="magnitude", schedule=schedule, total_steps=4)
    kept = []
    for _ in range(4):
        pruner.tick()
        kept.append(pruner.masks.kept[0])
    assert kept == [10, 10, 6, 2]


def test_uniform_gives_every_target_the_same_density():
    assert [c.kept for c in TopK("uniform").cut(of([1.0] * 10, [9.0] * 30), 0.8)] == [2, 6]


def test_global_lets_the_strong_target_keep_more():
    assert [c.kept for c in TopK("global").cut(of([1.0] * 10, [9.0] * 30), 0.5)] == [0 + 1, 19]


def erk_densities(shapes: list[tuple[int, ...]], density: float) -> list[float]:
    """RigL's published solution: raise epsilon, and make dense whatever comes out above one."""
    dense: set[int] = set()
    while True:
        right = sum(math.prod(s) * density for s in shapes) - sum(math.prod(shapes[i]) for i in dense)
        raw = {i: sum(s) / math.prod(s) for i, s in enumerate(shapes) if i not in dense}
        epsilon = right / sum(raw[i] * math.prod(shapes[i]) for i in raw)
        over = [i for i in raw if raw[i] * epsilon > 1]
        if not over:
            return [1.0 if i in dense else raw[i] * epsilon for i in range(len(shapes))]
        dense.add(max(over, key=lambda i: raw[i]))


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.95])
def test_erk_matches_the_published_solution(sparsity):
    shapes = [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 1, 1), (10, 128)]
    generator = torch.Generator().manual_seed(0)
    scores = [Scores.from_tensor(str(s), torch.rand(s, generator=generator)) for s in shapes]
    expected = erk_densities(shapes, 1 - sparsity)
    cuts = TopK("erk").cut(scores, sparsity)
    for c, s, density in zip(cuts, shapes, expected, strict=True):
        assert abs(c.kept - density * math.prod(s)) <= 1
    total = sum(math.prod(s) for s in shapes)
    assert sum(c.kept for c in cuts) == total - int(sparsity * total + 0.5)


def test_layer_reaches_each_targets_own_sparsity_by_equal_shares_of_the_way():
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    pruner = Pruner(
        net,
        threshold={"name": "topk", "scope": "layer"},
        targets={"0.weight": 0.8, "*": 0.4},
        strategy="magnitude",
        schedule={"name": "linear", "begin": 1, "end": 3, "every": 1},
    )
    assert pruner.target_sparsity == pytest.approx(0.6)
    reached = []
    for _ in range(3):
        pruner.tick()
        reached.append([round(s, 6) for s in pruner.layer_sparsity.values()])
    assert reached == [[0.0, 0.0], [0.4, 0.2], [0.8, 0.4]]


def planned(threshold: TopK | Fixed, shares: list[float | None], sparsity: float | None) -> float | None:
    targets = [Target(f"t{i}", nn.Parameter(torch.zeros(100)), sparsity=share) for i, share in enumerate(shares)]
    return threshold.final_sparsity(targets, sparsity)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK("local"), "scope='local' is unknown; known: global, uniform, erk, layer"),
        (lambda: planned(TopK("layer"), [0.5, None], None), "scope='layer' needs a sparsity for t1"),
        (lambda: planned(TopK("layer"), [0.5, 0.7], 0.9), "does not agree with the targets' own, which amount to 0.6"),
        (lambda: planned(TopK(), [0.5, None], 0.9), "a sparsity is set for t0, which only threshold topk with scope"),
        (lambda: planned(Fixed(1.0), [0.5], 0.9), "a sparsity is set for t0"),
        (lambda: Mean(1.5), r"rate=1.5 is not accepted; give a number in \[-inf, 1\]"),
    ],
)
def test_a_threshold_that_cannot_work_is_refused_in_words(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [lambda: Fixed(None), lambda: Std("1"), lambda: Mean(True), lambda: Fixed(math.nan)])
def test_a_setting_that_is_no_number_is_refused(make):
    with pytest.raises(TypeError, match="is not a finite number"):
        make()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_allocation_adds_up_within_floors_and_caps(data):
    n = data.draw(st.integers(1, 6))
    caps = data.draw(st.lists(st.integers(0, 50), min_size=n, max_size=n))
    floors = [data.draw(st.integers(0, min(cap, 3))) for cap in caps]
    wanted = data.draw(st.lists(st.floats(0, 1e3), min_size=n, max_size=n))
    keep = data.draw(st.integers(0, sum(caps)))
    counts = allocate(keep, wanted, floors, caps)
    assert sum(counts) == max(keep, sum(floors))
    assert all(low <= c <= high for low, c, high in zip(floors, counts, caps, strict=True))
