"""The warning about a target sparsity that was missed."""

from __future__ import annotations

import lightning as L
import pytest

from lightning_dynprune import DynamicPruning
from lightning_dynprune.callback.shortfall import never_decides
from tests.callback.runs import loader, net
from tests.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*is down to min_kept"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


def test_a_target_that_was_missed_is_said_at_the_end(tmp_path):
    pruning = DynamicPruning(sparsity=0.9, threshold={"name": "fixed", "theta": 1e-9})
    with pytest.warns(UserWarning, match="is short of the target 0.9000: threshold Fixed and min_kept pruned no more"):
        trainer([pruning], tmp_path).fit(net(), loader())

    class Stops(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = True

    with pytest.warns(UserWarning, match="is short of the target 0.9000: training ended at step 1, before"):
        trainer([DynamicPruning(sparsity=0.9), Stops()], tmp_path, min_epochs=0).fit(net(), loader(batch_size=64))


def test_a_fixed_threshold_that_decided_no_cut_is_said_at_the_end(tmp_path):
    pruning = DynamicPruning(sparsity=0.5, strategy="magnitude", threshold={"name": "fixed", "theta": 100.0})
    with pytest.warns(UserWarning, match=r"threshold fixed changed nothing: .* theta=100.0 than the schedule"):
        trainer([pruning], tmp_path).fit(net(), loader())
    assert never_decides(pruning.pruner)
