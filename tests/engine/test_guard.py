"""The accuracy guard in a plain loop, given scripted values of its metric."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import AccuracyGuard, Pruner

GRADUAL = {"name": "linear", "begin": 10, "end": 50, "every": 10}


class Watched:
    """A pruner whose metric is validated every 10 steps, with the values of a script."""

    def __init__(
        self, guard: dict[str, Any] | None = None, sparsity: float = 0.8, length: int | None = None, **settings: Any
    ) -> None:
        torch.manual_seed(0)
        self.net = nn.Linear(20, 50, bias=False)
        settings = {"strategy": "magnitude", "schedule": GRADUAL, "journal": {"remember_values": True}, **settings}
        self.pruner = Pruner(self.net, sparsity=sparsity, total_steps=1000, **settings)
        self.guard = AccuracyGuard(**{"max_drop": 0.01, **(guard or {})})
        self.length = length
        self.validations = 0
        self.masks: list[torch.Tensor] = []
        self.cut: list[torch.Tensor] = []

    def validate(self, *values: float) -> list[str | None]:
        """Train 10 steps and validate, for each value; return what was decided."""
        said = []
        for value in values:
            for _ in range(10):
                with torch.no_grad():
                    self.net.weight.mul_(1.01)
                self.pruner.tick()
            self.masks.append(self.mask.clone())
            self.validations += 1
            left = None if self.length is None else self.length - self.validations
            said.append(self.guard.judge(value, self.pruner, left))
        return said

    @property
    def mask(self) -> torch.Tensor:
        return self.pruner.masks.tensors[0]

    @property
    def sparsity(self) -> float:
        return round(self.pruner.sparsity, 4)


# Updates come at steps 20 to 60, to sparsity 0.2, 0.35, 0.5, 0.65 and 0.8.
LATER = {"name": "linear", "begin": 20, "end": 60, "every": 10, "initial": 0.2}


def test_inside_the_limit_nothing_is_decided_and_the_schedule_is_followed():
    run = Watched(schedule=LATER)
    assert run.validate(0.9, 0.9, 0.895, 0.891, 0.9, 0.9) == [None] * 6
    assert run.sparsity == 0.8
    assert run.pruner.journal.notes == []
    assert not run.guard.holds


def test_the_reference_is_the_best_value_before_the_first_update():
    run = Watched(schedule={"name": "one_shot", "begin": 35})
    assert run.validate(0.7, 0.9, 0.8) == [None] * 3
    (said,) = run.validate(0.885)
    assert said == (
        "step 40: val_acc 0.885 is 0.015 short of the dense 0.9, limit 0.01: pruning pauses at sparsity 0.8000"
    )


def test_a_reference_that_is_given_stands():
    run = Watched({"reference": 0.8}, schedule={"name": "one_shot", "begin": 15})
    assert run.validate(0.95, 0.795) == [None, None]
    assert "short of the dense 0.8" in run.validate(0.78)[0]


def test_a_network_of_which_nothing_is_pruned_is_not_held_though_it_is_short_of_a_reference():
    run = Watched({"reference": 0.95}, schedule=GRADUAL)
    # The update at 10 prunes nothing, that at 20 does.
    assert run.validate(0.5) == [None]
    assert (run.pruner.updates, run.sparsity, run.pruner.paused) == (1, 0.0, False)
    assert "pruning pauses at sparsity 0.2000" in run.validate(0.6)[0]


@pytest.mark.parametrize("values", [(math.nan, 0.9), (0.9, math.nan)])
def test_a_value_that_is_no_number_is_no_reference(values):
    run = Watched(schedule={"name": "one_shot", "begin": 25})
    run.validate(*values)
    assert "short of the dense 0.9" in run.validate(0.8)[0]


def test_in_mode_min_less_is_better():
    run = Watched({"mode": "min", "monitor": "val_loss", "max_drop": 0.1}, schedule=LATER)
    run.validate(0.5)
    assert run.validate(0.59, 0.2) == [None, None]
    assert "val_loss 0.7 is 0.2 short of the dense 0.5, limit 0.1" in run.validate(0.7)[0]


def test_a_pause_stops_the_schedule_and_a_recovery_lets_it_go_on_where_it_stood():
    run = Watched(schedule=LATER)
    run.validate(0.9, 0.9)
    assert run.sparsity == 0.2
    (said,) = run.validate(0.88)
    assert said.endswith("pruning pauses at sparsity 0.3500")
    assert run.validate(0.885) == [None]
    assert run.sparsity == 0.35
    assert run.validate(0.895) == ["step 50: val_acc 0.895 is inside the limit again: pruning goes on"]
    assert run.sparsity == 0.35
    run.validate(0.9)
    # Twenty steps stood still: what was due at 40 comes at 60.
    assert run.sparsity == 0.5
    run.validate(0.9, 0.9)
    assert run.sparsity == 0.8
    assert [step for step, _ in run.pruner.journal.notes] == [30, 50]


def test_without_a_recovery_masks_and_values_of_the_last_good_validation_are_back_and_held():
    run = Watched(schedule=LATER)
    run.validate(0.9, 0.9, 0.9)
    good, values = run.mask.clone(), run.net.weight.detach().clone()
    assert run.sparsity == 0.35
    said = run.validate(0.8, 0.81, 0.82)
    assert said[1] is None
    assert said[2] == (
        "step 60: val_acc 0.82 has not recovered in 2 validations: back to the masks of step 30, sparsity 0.3500, "
        "and held"
    )
    assert torch.equal(run.mask, good)
    # What was cut at step 40 had been trained for ten steps more.
    back = good & ~run.masks[3]
    assert torch.allclose(run.net.weight.detach()[back], values[back] * 1.01**10)
    assert run.net.weight.detach()[back].all()
    run.validate(0.9, 0.9, 0.9)
    assert torch.equal(run.mask, good)
    assert run.guard.holds
    assert [text for _, text in run.pruner.journal.notes][-1] == said[2]


def test_where_that_does_not_suffice_the_masks_before_follow_down_to_the_dense():
    run = Watched({"patience": 1}, schedule=LATER)
    run.validate(0.9, 0.9, 0.9, 0.9)
    sparsities = []
    # Each time the denser mask helps, but not enough.
    for value in (0.5, 0.5, 0.7, 0.8, 0.84, 0.87):
        run.validate(value)
        sparsities.append(run.sparsity)
    assert sparsities == [0.65, 0.5, 0.35, 0.2, 0.0, 0.0]
    assert [text.split("step ")[2].split(",")[0] for _, text in run.pruner.journal.notes if "recovered" in text] == [
        "40",
        "30",
        "20",
        "0",
    ]


@pytest.mark.parametrize("later", [0.5, 0.45, 0.55, math.nan])
def test_where_a_denser_mask_does_not_help_it_stops_and_says_that_pruning_is_not_the_cause(later):
    run = Watched({"patience": 1}, schedule=LATER)
    run.validate(0.9, 0.9, 0.9, 0.9)
    assert "back to the masks of step 40" in run.validate(0.5, 0.5)[1]
    (said,) = run.validate(later)
    assert said == (
        f"step 70: val_acc {later:.6g} did not recover with the denser masks, so pruning is not the cause: "
        "no masks are restored any more, sparsity 0.5000, and held"
    )
    assert run.pruner.journal.notes[-1] == (70, said)
    assert run.validate(0.4, 0.3, 0.9, 0.2, 0.1) == [None] * 5
    assert (run.sparsity, run.guard.holds) == (0.5, True)


def test_a_fall_that_the_dense_control_shows_too_is_not_blamed_on_pruning():
    falling = {10 * n: 0.9 - 0.05 * n for n in range(1, 10)}
    run = Watched({"control": falling}, schedule=LATER)
    assert run.validate(*[falling[10 * n] - 0.005 for n in range(1, 9)]) == [None] * 8
    assert run.sparsity == 0.8
    (said,) = run.validate(0.4)
    assert said.startswith("step 90: val_acc 0.4 is 0.05 short of the dense 0.45")


def test_a_control_needs_no_validation_before_the_pruning_and_reads_the_last_point():
    run = Watched({"control": [(35, 0.5), (0, 0.8)]}, schedule={"name": "one_shot", "begin": 5})
    assert run.validate(0.795) == [None]
    assert "short of the dense 0.8" in run.validate(0.5)[0]
    assert run.validate(0.5, 0.495) == [None, "step 40: val_acc 0.495 is inside the limit again: pruning goes on"]


@pytest.mark.parametrize("control", [3, {}, {"a": 1}, [1, 2], {1: "x"}, {-1: 0.5}])
def test_a_control_of_another_form_is_refused(control):
    with pytest.raises(TypeError, match=r"guard: control=.* is not accepted; give a mapping from optimizer steps"):
        AccuracyGuard(control=control)


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "wanda"},
        {"strategy": "magnitude", "reconstruct": True},
        {"strategy": "snip"},
        {"strategy": "taylor"},
    ],
    ids=str,
)
def test_it_prunes_on_by_strategies_that_read_a_batch_of_the_next_step(settings):
    torch.manual_seed(0)
    net = nn.Linear(20, 50, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    pruner = Pruner(net, optimizer, sparsity=0.5, schedule={"name": "one_shot", "begin": 3}, **settings)
    guard = AccuracyGuard(until_limit=True, reference=0.9)

    def train(steps: int) -> None:
        for _ in range(steps):
            if pruner.needs_layer_inputs and pruner.updates_next():
                pruner.start_capture()
            optimizer.zero_grad()
            net(torch.randn(64, 20)).square().mean().backward()
            optimizer.step()
            pruner.tick()
            pruner.stop_capture()

    train(5)
    said = guard.judge(0.9, pruner)
    assert "is inside the limit: sparsity rises to 0.6000" in said
    train(1)
    assert round(pruner.sparsity, 4) == 0.6
    train(2)
    assert round(pruner.sparsity, 4) == 0.6
    guard.judge(0.9, pruner)
    state = copy.deepcopy(pruner.state_dict())
    train(1)
    assert round(pruner.sparsity, 4) == 0.68
    pruner.load_state_dict(state)
    train(1)
    assert round(pruner.sparsity, 4) == 0.68


def test_masks_that_are_those_of_now_are_passed_over():
    # One update at 15: the validations at 20 to 50 judge the same masks.
    run = Watched(schedule={"name": "one_shot", "begin": 15})
    run.validate(0.9, 0.9, 0.9, 0.9, 0.9)
    said = run.validate(0.8, 0.8, 0.8)
    assert said[2].endswith("back to the masks of step 0, sparsity 0.0000, and held")


def test_masks_of_an_update_at_the_step_of_their_validation_are_passed_over_too():
    # The last update and a validation within the limit are both at step 60.
    run = Watched(schedule=LATER)
    run.validate(*[0.9] * 6)
    said = run.validate(0.8, 0.8, 0.8)
    assert said[2].endswith("back to the masks of step 50, sparsity 0.6500, and held")


def test_a_metric_that_is_not_a_number_counts_as_outside():
    run = Watched({"patience": 1}, schedule=LATER)
    run.validate(0.9, 0.9)
    said = run.validate(math.nan, math.nan)
    assert "pruning pauses" in said[0]
    assert "back to the masks of step 20" in said[1]


def test_without_anything_dense_to_compare_with_it_says_so():
    run = Watched(schedule={"name": "one_shot", "begin": 5})
    with pytest.raises(
        RuntimeError, match=r"no val_acc was validated before the pruning began.* give guard\.reference"
    ):
        run.validate(0.9)


def test_at_the_end_of_training_it_does_not_wait():
    run = Watched(schedule=LATER, length=7)
    run.validate(0.9, 0.9, 0.9, 0.9)
    (said,) = run.validate(0.8)
    assert said == (
        "step 50: val_acc 0.8 is outside the limit at the end: back to the masks of step 40, sparsity 0.5000, and held"
    )
    assert "masks of step 30" in run.validate(0.85)[0]
    assert run.validate(0.9) == [None]
    assert run.sparsity == 0.35


def test_a_pause_that_training_ends_in_is_given_up():
    run = Watched({"patience": 3}, schedule=LATER, length=7)
    run.validate(0.9, 0.9)
    assert "pauses" in run.validate(0.8)[0]
    assert "is outside the limit at the end: back to the masks of step 20" in run.validate(0.8)[0]


def test_past_the_schedule_it_prunes_on_until_the_limit_and_no_further():
    run = Watched({"until_limit": True, "patience": 1}, schedule=LATER)
    run.validate(0.9, 0.9, 0.9, 0.9, 0.9)
    assert run.sparsity == 0.65
    # The last update came at 60, the step of this validation; the next one sets in.
    assert run.validate(0.9) == [None]
    judged = run.mask.clone()
    said = run.validate(0.9)
    assert said == ["step 70: val_acc 0.9 is inside the limit: sparsity rises to 0.8400"]
    assert torch.equal(run.masks[-1], judged)
    (said,) = run.validate(0.9)
    inside = run.masks[-1]
    assert said.endswith("sparsity rises to 0.8720")
    assert round(float((~inside).float().mean()), 4) == 0.84
    said = run.validate(0.8, 0.8)
    assert said[1].endswith("back to the masks of step 79, sparsity 0.8400, and held")
    assert torch.equal(run.mask, inside)
    assert run.validate(0.9, 0.9, 0.9) == [None] * 3
    assert torch.equal(run.mask, inside)


def test_without_time_left_it_prunes_no_further():
    run = Watched({"until_limit": True}, schedule=LATER, length=8)
    assert run.validate(*[0.9] * 8) == [None] * 8
    assert run.sparsity == 0.8


def test_it_ends_where_no_connection_is_left_to_prune():
    run = Watched({"until_limit": True, "raise_by": 0.9}, schedule={"name": "one_shot", "begin": 15})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = run.validate(*[0.9] * 7)
    assert [s.split("to ")[1] for s in said if s] == ["0.9800", "0.9980", "0.9990"]
    assert said[-1] is None


def test_a_journal_that_does_not_reach_back_leads_as_far_as_it_does():
    growing = {"strategy": {"name": "set", "exchange": 0.5}, "threshold": "topk"}
    journal = {"remember_values": True, "cap": 1.5}
    run = Watched(
        {"patience": 1}, schedule={"name": "constant", "begin": 12, "end": 90, "every": 1}, journal=journal, **growing
    )
    run.validate(0.9)
    run.validate(0.5)
    reach = run.pruner.journal.earliest_step
    assert reach > 12
    (said,) = run.validate(0.5)
    assert f"back to the masks of step {reach}, sparsity 0.8000, and held" in said


@pytest.mark.parametrize("killed_after", [1, 3, 4, 5])
def test_a_resumed_guard_decides_as_the_unbroken_one(killed_after):
    script = [0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.9]
    unbroken = Watched(schedule=LATER)
    expected = unbroken.validate(*script)
    killed = Watched(schedule=LATER)
    said = killed.validate(*script[:killed_after])
    resumed = Watched(schedule=LATER)
    resumed.net.load_state_dict(killed.net.state_dict())
    resumed.pruner.load_state_dict(killed.pruner.state_dict())
    resumed.guard.load_state_dict(killed.guard.state_dict())
    assert said + resumed.validate(*script[killed_after:]) == expected
    assert len([text for text in expected if text]) >= 3
    assert torch.equal(resumed.net.weight, unbroken.net.weight)
    assert resumed.guard.state_dict() == unbroken.guard.state_dict()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_drop": -0.1}, ValueError, "guard: max_drop=-0.1 is not accepted"),
        ({"mode": "most"}, ValueError, "guard: mode='most' is unknown; known: max, min"),
        ({"monitor": ""}, TypeError, "guard: monitor='' is not accepted"),
        ({"patience": -1}, ValueError, "guard: patience=-1 is not accepted"),
        ({"raise_by": 1.0}, ValueError, "guard: raise_by=1.0 is not accepted"),
        ({"reference": math.nan}, (TypeError, ValueError), "guard: reference=nan is not"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, error, message):
    with pytest.raises(error, match=message):
        AccuracyGuard(**settings)


def test_a_drop_of_exactly_the_limit_is_inside_it():
    net = torch.nn.Linear(4, 1)
    pruner = Pruner(net, sparsity=0.5, strategy="magnitude", schedule={"name": "one_shot", "begin": 1})
    guard = AccuracyGuard(max_drop=0.25, reference=0.75)
    pruner.tick()
    assert guard.judge(0.5, pruner) is None
    assert "pruning pauses" in guard.judge(0.499, pruner)
