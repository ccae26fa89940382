"""An error in the middle of an update ends a fit; the checkpoint that Lightning then writes is resumed."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint

from lightning_dynprune import DynamicPruning
from lightning_dynprune.engine.updates import run_update
from tests import training
from tests.compatibility.runs import SCHEDULE, Module, data

pytestmark = pytest.mark.filterwarnings("ignore:.*is down to min_kept", "ignore:.*isinstance.treespec")


def fail_at(monkeypatch, module, name: str, call: int) -> None:
    """Let one call of a function raise, as an interrupt in it would."""
    function, calls = getattr(module, name), [0]

    def failing(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            raise MemoryError("injected")
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, failing)


@pytest.mark.parametrize("strategy", ["taylor", "surgery", "rigl"])
@pytest.mark.parametrize(("name", "updates"), [("new_update", 2), ("clear_slots", 3)], ids=["undone", "finished"])
def test_a_fit_that_fails_in_its_third_update_leaves_a_checkpoint_that_resumes(
    monkeypatch, tmp_path, strategy, name, updates
):
    fail_at(monkeypatch, run_update, name, call=3)
    callbacks = [OnExceptionCheckpoint(tmp_path), DynamicPruning(sparsity=0.75, strategy=strategy, schedule=SCHEDULE)]
    with pytest.raises(MemoryError, match="injected"):
        training.trainer(callbacks, tmp_path, enable_checkpointing=True).fit(Module(), data())
    (checkpoint,) = tmp_path.glob("*.ckpt")
    saved = torch.load(checkpoint, weights_only=True)["callbacks"]["DynamicPruning"]
    assert saved["updates"] == updates
    resumed = DynamicPruning(sparsity=0.75, strategy=strategy, schedule=SCHEDULE)
    training.trainer([resumed], tmp_path).fit(Module(), data(), ckpt_path=checkpoint)
    assert resumed.sparsity == 0.75
