"""The length of a fit, known or not."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_dynprune import DynamicPruning
from tests.callback.runs import Unsized, net
from tests.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*is down to min_kept"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(20), torch.tensor(1)


def test_shares_of_an_endless_training_are_refused_and_steps_are_not(tmp_path):
    endless = DataLoader(Endless(), batch_size=4)
    with pytest.raises(ValueError, match="is a share of training, whose length is not known; give begin in steps"):
        trainer([DynamicPruning(sparsity=0.5)], tmp_path, max_epochs=-1).fit(net(), endless)
    in_steps = {"name": "cubic", "begin": 1, "end": 8, "every": 1}
    without_length = DataLoader(Unsized(), batch_size=None)
    with pytest.raises(ValueError, match="is a share of training, whose length is not known"):
        trainer([DynamicPruning(sparsity=0.5)], tmp_path).fit(net(), without_length)
    pruning = DynamicPruning(sparsity=0.5, schedule=in_steps)
    trainer([pruning], tmp_path).fit(net(), without_length)
    assert pruning.sparsity == 0.5
    pruning = DynamicPruning(sparsity=0.5, schedule=in_steps)
    trainer([pruning], tmp_path, max_epochs=-1, max_steps=10).fit(net(), endless)
    assert pruning.sparsity == 0.5
