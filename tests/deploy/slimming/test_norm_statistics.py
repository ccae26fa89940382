"""Batch norms estimated again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lightning_dynprune.deploy.slimming import recalibrate, slim
from lightning_dynprune.engine import Pruner
from tests.networks import residual, settled


def batches(count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [1 + torch.randn(6, 3, 8, 8, generator=generator) for _ in range(count)]


def test_running_values_are_the_means_over_all_batches_whatever_they_were() -> None:
    norm = nn.BatchNorm2d(3)
    norm.running_mean.fill_(50.0)
    data = batches()
    assert recalibrate(norm, data) == 1
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean((0, 2, 3)) for b in data]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([b.var((0, 2, 3)) for b in data]).mean(0))


def test_each_norm_sees_what_arrives_while_the_norms_before_it_normalise_by_the_batch() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3))
    assert recalibrate(model, batches()) == 2
    torch.testing.assert_close(model[1].running_mean, torch.zeros(3), atol=1e-6, rtol=0)


def test_weights_modes_and_momenta_are_as_before() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(), nn.BatchNorm2d(4)).train()
    model[3].eval()
    before = copy.deepcopy(model)
    recalibrate(model, batches())
    assert [module.training for module in model.modules()] == [True, True, True, True, False]
    assert model[1].momentum == 0.3
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


def test_dropout_is_off_so_that_two_estimates_agree() -> None:
    one = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3)).train()
    other = copy.deepcopy(one)
    recalibrate(one, batches())
    recalibrate(other, batches())
    assert torch.equal(one[1].running_mean, other[1].running_mean)


def test_pruned_channels_stay_zero_and_the_model_slims_as_before() -> None:
    model = settled(residual())
    example = torch.randn(2, 3, 8, 8)
    schedule = {"name": "one_shot", "begin": 1}
    Pruner(
        model, sparsity=0.6, strategy="magnitude", pattern="channel", example_input=example, schedule=schedule
    ).tick()
    pruned = {name: module.weight == 0 for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert sum(int(gone.sum()) for gone in pruned.values()) > 3
    widths = slim(copy.deepcopy(model), example).widths
    moved = {name: model.get_submodule(name).running_mean.clone() for name in pruned}
    recalibrate(model, batches())
    for name, gone in pruned.items():
        assert (model.get_submodule(name).running_mean[gone] == 0).all()
        assert not torch.equal(model.get_submodule(name).running_mean[~gone], moved[name][~gone])
    assert slim(model, example).widths == widths


def test_a_channel_silenced_by_its_norm_alone_stays_silent() -> None:
    norm = nn.BatchNorm2d(3)
    norm.weight.data[1] = norm.bias.data[1] = 0
    recalibrate(norm, batches())
    assert norm.running_mean[1] == 0
    assert norm.running_mean[0] > 0.5


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (nn.Linear(3, 3), [], "Linear has no batch norm with running values"),
        (nn.BatchNorm2d(3, track_running_stats=False), batches(), "has no batch norm"),
        (nn.BatchNorm2d(3), [], "batches is empty"),
        (nn.BatchNorm2d(3), [torch.zeros(1, 3, 1, 1)], "Expected more than 1 value per channel"),
    ],
    ids=["no norm", "no running values", "no batch", "one value a channel"],
)
def test_what_cannot_be_estimated_is_refused_and_nothing_changes(model: nn.Module, data: list, message: str) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        recalibrate(model, data)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert getattr(model, "momentum", 0.1) == 0.1


def test_batches_may_be_arguments_by_position_or_by_name() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.norm(a + b)

    a, b = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    model = Sum()
    recalibrate(model, [(a, b)])
    assert model.norm.running_mean == 3
    recalibrate(model, [{"b": a, "a": 2 * b}])
    assert model.norm.running_mean == 4.5
