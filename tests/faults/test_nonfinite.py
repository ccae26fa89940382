"""NaN and infinity in weights, gradients or scores, at any step: no mask changes, and the target is named."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from lightning_dynprune.selection.scores import NonFiniteError
from tests.compatibility.runs import BATCHES, EPOCHS, Module, pruning
from tests.conformance import parts
from tests.conformance.loop import STEPS, STEPS_PER_EPOCH, Run, batch, same
from tests.training import trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*is down to min_kept")
SCHEDULE = {"name": "cubic", "begin": 2, "end": 16, "every": 2}
EVERY = {"name": "constant", "begin": 2, "end": 16, "every": 2}
WHAT = ("weights", "scores", "inputs")
ONCE = {"name": "one_shot", "begin": 4}


def run_of(strategy: str) -> Run:
    own = {"rigl": EVERY, "set": EVERY, "snip": ONCE, "static": ONCE}
    return Run({"strategy": parts.STRATEGIES[strategy], "schedule": own.get(strategy, SCHEDULE)})


def masks_of(run: Run) -> list[torch.Tensor]:
    return [mask.view(torch.uint8).clone() for mask in run.pruner.masks.tensors]


def step_with(run: Run, place: str, number: int, bad: float) -> None:
    """Train a step in which one entry of a target's gradient or weight becomes NaN or infinite."""
    x, y = batch(run.done)
    target = run.pruner.targets[number]
    kept = int(run.pruner.masks.tensors[number].view(-1).nonzero()[0])
    ending_epoch = (run.done + 1) % STEPS_PER_EPOCH == 0
    if run.pruner.needs_layer_inputs and run.pruner.updates_next(ending_epoch):
        run.pruner.start_capture()
    run.optimizer.zero_grad()
    nn.functional.cross_entropy(run.net(x), y).backward()
    run.pruner.stop_capture()
    if place == "gradient":
        target.parameter.grad.view(-1)[kept] = bad
    run.optimizer.step()
    if place == "weight":
        with torch.no_grad():
            target.parameter.view(-1)[kept] = bad
    run.done += 1
    run.pruner.tick()
    if ending_epoch:
        run.pruner.end_epoch()


@pytest.mark.parametrize("strategy", parts.STRATEGIES)
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    place=st.sampled_from(["weight", "gradient"]),
    at=st.integers(0, 14),
    number=st.integers(0, 2),
    bad=st.sampled_from([math.nan, math.inf, -math.inf]),
)
def test_an_entry_that_is_not_finite_stops_the_next_update_by_the_targets_name(strategy, place, at, number, bad):
    run = run_of(strategy)
    for _ in range(at):
        run.step()
    before, updates = masks_of(run), run.pruner.updates
    raised: NonFiniteError | None = None
    at_once = True
    try:
        step_with(run, place, number, bad)
        at_once = False
        while raised is None and run.done < STEPS and run.pruner.updates == updates:
            run.step()
    except NonFiniteError as error:
        raised = error
    # A strategy whose one update is made already, or that ends before it, has nothing left to be stopped.
    if raised is None:
        assert run.pruner.updates == updates
        assert run.pruner.has_ended
    else:
        # From one step to the next it has spread to others, and the first of them is named.
        names = [target.name for i, target in enumerate(run.pruner.targets) if i == number or not at_once]
        assert str(raised).startswith(tuple(f"{what} of {name} are not" for name in names for what in WHAT))
        assert "masks and weights are left as they were" in str(raised)
    assert same(masks_of(run), before)
    for target, mask in zip(run.pruner.targets, run.pruner.masks.tensors, strict=True):
        pruned = target.parameter.detach()[~mask]
        assert same(pruned, torch.zeros_like(pruned))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("strategy", parts.STRATEGIES)
def test_a_score_that_is_not_finite_is_refused_by_the_targets_name(strategy, bad):
    run = run_of(strategy)
    own = run.pruner.strategy

    class Bad(type(own)):  # type: ignore[misc]
        def score(self, target: Any) -> torch.Tensor:
            scores = super().score(target).clone()
            if target.name == "3.weight":
                scores.view(-1)[-1:] = bad
            return scores

    run.pruner.strategy = Bad(**vars(own))
    before = masks_of(run)
    with pytest.raises(NonFiniteError, match=r"scores of 3\.weight are not finite; masks and weights are left"):
        run.finish()
    assert same(masks_of(run), before)


def test_growth_that_is_not_finite_puts_the_masks_back_as_they_were():
    run = run_of("rigl")
    for _ in range(5):
        run.step()
    before = masks_of(run)
    own = run.pruner.strategy

    class Bad(type(own)):  # type: ignore[misc]
        def grow(self, target: Any) -> torch.Tensor:
            return super().grow(target) * math.nan

    run.pruner.strategy = Bad(**vars(own))
    with pytest.raises(NonFiniteError, match="scores of "):
        run.finish()
    assert same(masks_of(run), before)


class Overflowing(MixedPrecision):
    """A scaler on the CPU whose scale is too large at first."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**21))


@pytest.mark.parametrize("strategy", ["taylor", "straight_through"])
def test_steps_that_a_scaler_skips_are_counted_in_what_is_logged_and_gone_on_with(strategy, tmp_path):
    schedule = {"name": "cubic", "begin": 2, "end": 8, "every": 2}
    ours = pruning(strategy, schedule=schedule)
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=12, save_top_k=-1)
    run = trainer([ours, saver], tmp_path, max_epochs=EPOCHS, plugins=[Overflowing()])
    run.fit(Module())
    skipped = EPOCHS * BATCHES - ours.pruner.clock.step
    assert skipped > 0
    assert run.callback_metrics["dynprune/skipped_steps"] == skipped
    resumed = pruning(strategy, schedule=schedule)
    trainer([resumed], tmp_path, max_epochs=EPOCHS, plugins=[Overflowing()]).fit(
        Module(), ckpt_path=tmp_path / "step=12.ckpt"
    )
    assert resumed.state_dict()["skipped"] == skipped


def test_a_run_without_a_scaler_logs_no_skipped_steps(tmp_path):
    run = trainer([pruning("taylor")], tmp_path, max_epochs=EPOCHS)
    run.fit(Module())
    assert "dynprune/skipped_steps" not in run.callback_metrics
