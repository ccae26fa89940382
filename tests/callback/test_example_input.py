"""Where the example input of a pattern comes from."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from tests.callback.channels import Module, pruning, zero_channels
from tests.training import trainer


def test_the_first_batch_is_the_example_where_none_is_given(tmp_path):
    module, callback = Module(), pruning()
    trainer([callback], tmp_path).fit(module)
    assert min(zero_channels(module)) >= 0
    assert sum(zero_channels(module)) > 4
    assert callback.sparsity == pytest.approx(0.6, abs=0.03)


def test_an_example_input_array_is_taken_before_the_first_batch(tmp_path):
    module = Module()
    module.example_input_array = torch.zeros(2, 1, 6, 6)
    callback = pruning(schedule={"name": "one_shot", "begin": 0})
    trainer([callback], tmp_path, max_epochs=1).fit(module)
    assert callback.pruner.journal.updates[0].step == 0


@pytest.mark.parametrize("strategy", ["magnitude", "taylor"])
def test_the_update_before_the_first_step_waits_for_the_first_batch_where_that_is_the_example(strategy, tmp_path):
    module, callback = Module(), pruning(strategy=strategy, schedule={"name": "one_shot", "begin": 0})
    trainer([callback], tmp_path, max_epochs=1).fit(module)
    assert [update.step for update in callback.pruner.journal.updates] == [0]
    pruner = callback.pruner
    assert callback.sparsity == pytest.approx(0.6, abs=pruner.unit / 2 / pruner.masks.total)


def test_a_batch_that_is_a_mapping_needs_an_example_and_says_so(tmp_path):
    class Mapped(Module):
        def train_dataloader(self):
            data = [{"image": torch.randn(1, 6, 6), "label": 0} for _ in range(16)]
            return DataLoader(data, 8)

    with pytest.raises(ValueError, match="example_input"):
        trainer([pruning()], tmp_path, max_epochs=1).fit(Mapped(as_mapping=True))
    callback = pruning(example_input=torch.randn(2, 1, 6, 6))
    trainer([callback], tmp_path, max_epochs=2).fit(Mapped(as_mapping=True))
    assert callback.sparsity == pytest.approx(0.6, abs=0.03)
