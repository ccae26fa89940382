"""Channels: scored and counted by hand, pruned in everything that makes, carries or reads them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lightning_dynprune.coupling import CouplingError
from lightning_dynprune.engine import Pruner, sealed
from lightning_dynprune.engine.coupled.coupled_update import fewest

NOW = {"name": "one_shot", "begin": 1}


def mlp() -> nn.Sequential:
    """Return 3 -> 4 -> 2: 12 + 8 connections; hidden channel k has 3 rows of k + 1 and 2 columns."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].weight.data = torch.arange(1.0, 5.0)[:, None].expand(4, 3).clone()
    net[0].bias.data = torch.ones(4)
    net[2].weight.data = torch.ones(2, 4)
    return net


def residual() -> nn.Module:
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.conv_1, self.conv_2 = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
            self.last = nn.Linear(8 * 4, 3)
            nn.init.ones_(self.norm.bias)

        def forward(self, x):
            x = self.norm(self.stem(x)).relu()
            x = x + self.conv_2(self.conv_1(x).relu())
            return self.last(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))

    return Residual()


IMAGES = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def pruned(net: nn.Module, sparsity: float, example=None, **settings) -> Pruner:
    example = torch.ones(1, 3) if example is None else example
    settings = {"strategy": "magnitude", "pattern": "channel", **settings}
    pruner = Pruner(net, sparsity=sparsity, schedule=NOW, example_input=example, **settings)
    pruner.tick()
    pruner.close()
    return pruner


def test_the_smallest_channel_goes_with_its_rows_bias_and_columns():
    net = mlp()
    pruner = pruned(net, 0.25)  # 5 of 20 connections: one channel
    assert net[0].weight.tolist() == [[0.0] * 3, [2.0] * 3, [3.0] * 3, [4.0] * 3]
    assert net[0].bias.tolist() == [0.0, 1.0, 1.0, 1.0]
    assert net[2].weight.tolist() == [[0.0, 1.0, 1.0, 1.0]] * 2
    assert bool((net[2].bias != 0).all())
    assert pruner.sparsity == 0.25


@pytest.mark.parametrize(("sparsity", "channels"), [(0.0, 0), (0.1, 0), (0.13, 1), (0.37, 1), (0.38, 2), (0.75, 3)])
def test_the_sparsity_is_met_to_the_nearest_channel(sparsity, channels):
    net = mlp()
    assert round(pruned(net, sparsity).sparsity * 20) == 5 * channels
    assert int((net[0].weight == 0).all(1).sum()) == channels


def test_connections_are_counted_where_rows_and_columns_cross():
    net = residual()
    pruner = pruned(net, 0.6, IMAGES)
    counted = sum(int((net.get_parameter(t.name) == 0).sum()) for t in pruner.targets)
    assert counted == pruner.masks.total - sum(pruner.masks.kept)
    assert pruner.sparsity == pytest.approx(0.6, abs=pruner.unit / 2 / pruner.masks.total)


def test_residual_sums_prune_alike_and_the_running_mean_with_them():
    net = residual()
    net(IMAGES)
    pruned(net, 0.6, IMAGES)
    gone = (net.stem.weight == 0).flatten(1).all(1)
    assert 0 < int(gone.sum()) < 8
    assert torch.equal((net.conv_2.weight == 0).flatten(1).all(1), gone)
    for beside in (net.stem.bias, net.conv_2.bias, net.norm.weight, net.norm.bias, net.norm.running_mean):
        assert torch.equal(beside == 0, gone)
    assert bool((net.norm.running_var != 0).all())
    assert torch.equal((net.last.weight.view(3, 8, 4) == 0).all(2).all(0), gone)


def test_a_score_is_the_mean_over_all_targets_that_make_the_channel():
    net = residual()
    with torch.no_grad():
        net.stem.weight.fill_(1.0)
        net.conv_2.weight.fill_(1.0)
        net.conv_2.weight[3] = 0.1  # 54 of the 63 connections of channel 3
    pruned(net, 0.1, IMAGES, exclude="conv_1.*")
    assert (net.stem.weight == 0).flatten(1).all(1).nonzero().view(-1).tolist() == [3]


@pytest.mark.parametrize(("relative", "expected"), [(True, [3, 2]), (False, [4, 1])])
def test_scores_are_compared_relative_to_their_group_or_as_they_are(relative, expected):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    ramp = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None].expand(4, 4)
    net[0].weight.data, net[2].weight.data = ramp.clone() * 100, ramp.clone()
    net[4].weight.data.fill_(1.0)
    pruner = pruned(net, 0.42, torch.ones(1, 4), pattern={"name": "channel", "relative": relative})
    # Relative scores are 0.4, 0.8, 1.2, 1.6 in both groups, and of equal ones the first stays.
    assert pruner.units.counts == expected


def test_widths_are_kept_in_multiples():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3))
    pruner = pruned(net, 0.6, torch.ones(1, 8), pattern={"name": "channel", "round_to": 8})
    assert all(count % 8 == 0 and count >= 8 for count in pruner.units.counts)
    assert pruner.sparsity == pytest.approx(0.6, abs=0.12)


def test_every_group_keeps_min_kept_and_says_so_once():
    with pytest.warns(UserWarning, match=r"0\.weight is down to min_kept=2 of its 4 units"):
        pruner = pruned(mlp(), 0.5, min_kept=2)
    assert pruner.units.counts == [2]


def test_a_sparsity_out_of_reach_is_refused_with_what_is_within():
    with pytest.raises(ValueError, match=r"sparsity=0.9 is not within reach of pattern channel: .* 0.75 at most"):
        pruned(mlp(), 0.9)


def test_the_outputs_of_the_model_and_of_excluded_layers_stay():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    pruner = pruned(net, 0.3, torch.ones(1, 8), exclude="0.weight")
    assert [group.name for group in pruner.units.groups] == ["2.weight"]
    assert bool((net[0].weight != 0).all())
    assert bool((net[4].weight != 0).any(1).all())


def test_a_model_without_units_of_targets_is_refused():
    with pytest.raises(ValueError, match=r"no channels of Sequential can be removed .*they are the model's outputs"):
        pruned(nn.Sequential(nn.Linear(3, 2)), 0.5)


def test_an_update_without_an_example_says_what_to_give():
    pruner = Pruner(mlp(), sparsity=0.5, strategy="magnitude", schedule=NOW, pattern="channel")
    with pytest.raises(RuntimeError, match=r"call pruner\.couple"):
        pruner.tick()
    pruner.couple(torch.ones(1, 3))
    assert pruner.tick() is not None  # what failed was not counted, so the same call makes the update
    assert pruner.sparsity == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "rigl"}, "pattern channel does not go with strategy=RigL"),
        ({"strategy": "straight_through"}, "pattern channel does not go with strategy=StraightThrough"),
        ({"schedule": "acdc"}, "pattern channel does not go with schedule=ACDC"),
        ({"threshold": {"name": "topk", "scope": "erk"}}, "scope='erk' does not go with pattern channel"),
    ],
)
def test_what_lets_connections_return_is_refused(settings, message):
    net = mlp()
    with pytest.raises(ValueError, match=message):
        Pruner(net, torch.optim.SGD(net.parameters(), 0.1), sparsity=0.5, pattern="channel", total_steps=99, **settings)


def test_couple_is_for_patterns_with_such_units():
    with pytest.raises(ValueError, match="pattern element has no units"):
        Pruner(mlp(), sparsity=0.5, strategy="magnitude", schedule=NOW).couple(torch.ones(1, 3))


def test_a_model_that_cannot_be_followed_is_refused_in_words():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(x).detach()

    with pytest.raises(CouplingError, match=r"channels of Single .*'fc.weight': they are the model's outputs.*targets"):
        pruned(Single(), 0.5)


def test_restored_units_return_with_what_they_had_beside_the_targets_too():
    net = residual()
    net(IMAGES)
    before = copy.deepcopy(net.state_dict())
    pruner = Pruner(
        net,
        sparsity=0.6,
        strategy="magnitude",
        schedule=NOW,
        pattern="channel",
        example_input=IMAGES,
        journal={"remember_values": True},
    )
    pruner.tick()
    state = pruner.state_dict()
    weights = copy.deepcopy(net.state_dict())
    pruner.close()

    resumed = residual()
    resumed.load_state_dict(weights)
    again = Pruner(
        resumed,
        sparsity=0.6,
        strategy="magnitude",
        schedule=NOW,
        pattern="channel",
        example_input=IMAGES,
        journal={"remember_values": True},
    )
    again.load_state_dict(state)
    again.restore(0)
    after = resumed.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_clipped_gradient_norms_leave_out_what_pruned_units_have_beside_the_targets():
    net = residual()
    pruner = Pruner(net, sparsity=0.6, strategy="magnitude", schedule=NOW, pattern="channel", example_input=IMAGES)
    pruner.tick()
    net(IMAGES).sum().backward()
    pruner.mask_gradients()
    gone = (net.stem.weight == 0).flatten(1).all(1)
    for parameter in (net.stem.weight, net.stem.bias, net.norm.bias, net.conv_2.weight):
        assert not parameter.grad[gone].any()
    assert bool(net.norm.bias.grad[~gone].any())


def test_fewest_finds_the_first_count_that_reaches():
    reached = [0, 0, 3, 3, 7, 9]
    assert [fewest(reached.__getitem__, wanted, 5) for wanted in (0, 1, 3, 4, 8, 99)] == [0, 2, 2, 4, 5, 5]


def test_a_state_of_other_groups_is_refused_and_nothing_changes():
    net = mlp()
    pruner = Pruner(
        net, sparsity=0.25, strategy="magnitude", schedule=NOW, pattern="channel", example_input=torch.ones(1, 3)
    )
    state = pruner.state_dict()
    pruner.tick()
    before = copy.deepcopy(net.state_dict())
    kept = list(pruner.masks.kept)
    state = sealed({**state, "units": {"0.bias": torch.zeros(5)}})
    with pytest.raises(ValueError, match=r"groups of pattern channel are not this model's: they differ at 0\.bias"):
        pruner.load_state_dict(state)
    assert pruner.masks.kept == kept
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
