"""Averages of other callbacks, masked after an update."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lightning_dynprune.callback.averages import AverageMasker, mask_average
from lightning_dynprune.engine import Pruner


class Run:
    """A Trainer with one callback that keeps an average."""

    def __init__(self, average: nn.Module) -> None:
        self._average_model = average
        self.callbacks = [self]


def pruned() -> tuple[nn.Linear, Pruner]:
    net = nn.Linear(2, 2)
    net.weight.data = torch.tensor([[1.0, 4.0], [3.0, 2.0]])
    pruner = Pruner(net, sparsity=0.5, strategy="magnitude", schedule={"name": "one_shot", "begin": 1})
    return net, pruner


def test_an_average_is_zero_where_the_model_is_pruned():
    net, pruner = pruned()
    average = copy.deepcopy(net)
    pruner.tick()
    mask_average(average, pruner)
    assert average.weight.tolist() == [[0.0, 4.0], [3.0, 0.0]]


def test_averages_are_masked_once_after_each_update_and_again_after_a_reset():
    net, pruner = pruned()
    average, masker = AveragedModel(net), AverageMasker()
    run = Run(average)
    masker.mask(run, pruner)
    pruner.tick()
    masker.mask(run, pruner)
    assert average.module.weight.tolist() == [[0.0, 4.0], [3.0, 0.0]]
    average.module.weight.data.fill_(5.0)
    masker.mask(run, pruner)
    assert average.module.weight.tolist() == [[5.0, 5.0], [5.0, 5.0]]
    masker.reset()
    masker.mask(run, pruner)
    assert average.module.weight.tolist() == [[0.0, 5.0], [5.0, 0.0]]
