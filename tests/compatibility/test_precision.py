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


class Fused(Module):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2, weight_decay=1e-2, fused=True)


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
    """A scaler whose scale is too large at first and again after every two steps; notes what each batch did."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=2))
        self.batches, self.skipped, self.changed, self.counted = 0, [], [], []

    def optimizer_step(self, optimizer: Any, model: Any, closure: Any, **settings: Any) -> Any:
        (pruner,) = [c.pruner for c in model.trainer.callbacks if isinstance(c, DynamicPruning)]
        before, clock, scale = all_of(pruner), pruner.clock.step, self.scaler.get_scale()
        result = super().optimizer_step(optimizer, model, closure, **settings)
        if self.scaler.get_scale() < scale:
            self.skipped.append(self.batches)
        self.changed.append(not same(all_of(pruner), before))
        self.counted.append(pruner.clock.step - clock)
        self.batches += 1
        return result


def all_of(pruner: Any) -> Any:
    """Return copies of the weights, the latent weights and the masks."""
    kept = [[t.parameter.detach().clone(), t.state.get("latent", torch.zeros(0)).clone()] for t in pruner.targets]
    return kept, pruner.masks.pack()


def run_with_overflows(folder: Any, strategy: str, make: Any = Module, **settings: Any) -> tuple[Any, Overflowing]:
    """Train with steps that are skipped before the run is left and after; return the pruner and the whole run's."""
    # One plugin a Trainer: each has a scaler of its own.
    whole, resumed = plugins = [Overflowing(), Overflowing()]
    waiting = iter(plugins)
    _, pruning, _ = holds(
        folder, strategy, make, save_at=6, settings=EARLY, plugins=lambda: [next(waiting)], **settings
    )
    left = whole.batches - resumed.batches
    assert whole.batches == EPOCHS * BATCHES
    assert min(whole.skipped) < left <= max(whole.skipped)
    assert [left + batch for batch in resumed.skipped] == [batch for batch in whole.skipped if batch >= left]
    assert whole.state_dict() == resumed.state_dict()
    return pruning.pruner, whole


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_that_a_scaler_skips_changes_nothing_and_is_none_to_the_clock(strategy, clip, tmp_path):
    pruner, run = run_with_overflows(tmp_path, strategy, gradient_clip_val=clip)
    stepped = [batch not in run.skipped for batch in range(run.batches)]
    assert run.counted == run.changed == stepped
    assert pruner.clock.step == run.batches - len(run.skipped)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "rigl"])
@pytest.mark.filterwarnings("ignore:.*is down to min_kept")
def test_a_step_that_a_fused_optimizer_skips_by_itself_counts_unless_an_update_would_read_it(strategy, tmp_path):
    _, run = run_with_overflows(tmp_path, strategy, Fused)
    uncounted = [batch for batch, counted in enumerate(run.counted) if not counted]
    assert set(uncounted) <= set(run.skipped)
    assert bool(uncounted) == (strategy == "rigl")
    assert not any(run.changed[batch] for batch in uncounted)
