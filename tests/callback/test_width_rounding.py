"""With round_to="auto" the multiple of channels is measured when a fit begins, and a resumed fit keeps it."""

from __future__ import annotations

import copy

import pytest
import torch

from lightning_dynprune import DynamicPruning, Pruner
from lightning_dynprune.callback import width_rounding
from lightning_dynprune.deploy import WidthMultiples
from tests.callback.channels import Module, zero_channels
from tests.training import trainer

AUTO = {"name": "channel", "round_to": "auto"}


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """The multiples that the next measurements find."""
    found = [4]
    monkeypatch.setattr(
        width_rounding, "measure_width_multiples", lambda *_, **__: WidthMultiples({}, found.pop(0), rounds=1)
    )
    return found


def callback(**settings) -> DynamicPruning:
    return DynamicPruning(sparsity=0.6, pattern=AUTO, example_input=torch.zeros(2, 1, 6, 6), **settings)


def test_channels_are_kept_in_multiples_of_what_was_measured(measured, tmp_path):
    module, pruning = Module(), callback()
    trainer([pruning], tmp_path, max_epochs=2).fit(module)
    assert measured == []
    assert pruning.pruner.pattern.round_to == 4
    assert [count % 4 for count in zero_channels(module)] == [0, 0]
    assert pruning.sparsity > 0.3
    assert "round_to='auto'" in repr(pruning)


def test_a_resumed_fit_takes_the_multiple_of_its_checkpoint(measured, tmp_path):
    first = trainer([callback()], tmp_path, max_epochs=1)
    first.fit(Module())
    first.save_checkpoint(tmp_path / "half.ckpt")
    measured.append(2)
    resumed, pruning = Module(), callback()
    trainer([pruning], tmp_path, max_epochs=2).fit(resumed, ckpt_path=tmp_path / "half.ckpt")
    assert measured == [2], "nothing was measured again"
    assert pruning.pruner.pattern.round_to == 4
    state = copy.deepcopy(pruning.state_dict())
    assert state["round_to"] == 4


def test_a_second_fit_keeps_what_the_first_one_measured(measured, tmp_path):
    module, pruning = Module(), callback()
    trainer([pruning], tmp_path, max_epochs=1).fit(module)
    trainer([pruning], tmp_path, max_epochs=1).fit(module)
    assert measured == []


def test_without_an_example_and_in_a_pruner_it_is_refused(measured, tmp_path):
    pruning = DynamicPruning(sparsity=0.6, pattern=AUTO)
    with pytest.raises(ValueError, match=r"round_to='auto' measures the model before the first batch, on an example"):
        trainer([pruning], tmp_path, max_epochs=1).fit(Module())
    module = Module()
    with pytest.raises(ValueError, match=r"round_to='auto' is measured by DynamicPruning; for a Pruner give"):
        Pruner(module, module.configure_optimizers(), sparsity=0.6, pattern=AUTO, total_steps=10)
    with pytest.raises(ValueError, match=r"round_to='often' is not accepted; give a whole number from 1, or 'auto'"):
        DynamicPruning(sparsity=0.6, pattern={"name": "channel", "round_to": "often"})
