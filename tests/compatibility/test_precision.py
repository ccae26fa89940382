"""Precisions, and a gradient scaler that skips steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from lightning_dynprune import DynamicPruning
from tests.compatibility.runs import BATCHES, EPOCHS, STRATEGIES, Module, holds
from tests.conformance.loop import same

# It ends early, for a step that is skipped is none, so that the clock falls behind the batches.
EARLY = {"schedule": {"name": "cubic", "begin": 2, "end": 8, "every": 2}}


class Half(Module):
    """Adam whose denominator is not lost in 16 bits."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2, weight_decay=1e-2, eps=1e-4)


def double() -> Module:
    # Lightning loads a checkpoint before it converts the module, so one that is built in float32 rounds what it loads.
    return Module().double()


@pytest.mark.parametrize(
    ("precision", "make", "dtype"),
    [
        ("bf16-mixed", Module, torch.float32),
        ("bf16-true", Module, torch.bfloat16),
        ("16-true", Half, torch.float16),
        ("64-true", double, torch.float64),
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_in_any_precision_is_exact_and_resumes_to_the_bit(strategy, precision, make, dtype, tmp_path):
    module, _, _ = holds(tmp_path, strategy, make, precision=precision)
    assert {parameter.dtype for parameter in module.parameters()} == {dtype}


class Overflowing(MixedPrecision):
    """A scaler whose scale is too large at first and again after every two steps; asserts that a skip skips all."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**21, growth_interval=2))
        self.skipped: list[int] = []
        self.batches = 0

    def optimizer_step(self, optimizer: Any, model: Any, closure: Any, **settings: Any) -> Any:
        (pruning,) = [c for c in model.trainer.callbacks if isinstance(c, DynamicPruning)]
        before = [
            (t.parameter.detach().clone(), t.state.get("latent", torch.zeros(0)).clone()) for t in self.of(pruning)
        ]
        masks, clock, scale = pruning.pruner.masks.pack(), pruning.pruner.clock.step, self.scaler.get_scale()
        result = super().optimizer_step(optimizer, model, closure, **settings)
        if self.scaler.get_scale() < scale:
            self.skipped.append(self.batches)
            after = [(t.parameter.detach(), t.state.get("latent", torch.zeros(0))) for t in self.of(pruning)]
            assert same(after, before)
            assert same(pruning.pruner.masks.pack(), masks)
            assert pruning.pruner.clock.step == clock
        else:
            assert pruning.pruner.clock.step == clock + 1
        self.batches += 1
        return result

    def of(self, pruning: DynamicPruning) -> Any:
        return pruning.pruner.targets


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_that_a_scaler_skips_changes_nothing_and_the_run_resumes_to_the_bit(strategy, clip, tmp_path):
    plugins = [Overflowing(), Overflowing()]
    waiting = iter(plugins)
    # One plugin a Trainer: each has a scaler of its own.
    _, pruning, _ = holds(tmp_path, strategy, settings=EARLY, plugins=lambda: [next(waiting)], gradient_clip_val=clip)
    whole, resumed = plugins
    assert whole.batches == EPOCHS * BATCHES
    assert pruning.pruner.clock.step == whole.batches - len(whole.skipped)
    # Steps were skipped before the run was left and after, and some were not.
    left = whole.batches - resumed.batches
    assert 3 <= len(whole.skipped) < whole.batches - 8
    assert min(whole.skipped) < left <= max(whole.skipped)
    assert [left + batch for batch in resumed.skipped] == [batch for batch in whole.skipped if batch >= left]
    assert whole.state_dict() == resumed.state_dict()
