"""Kills at steps that nobody chose, in trainings whose good places to save lie elsewhere than usual."""

from __future__ import annotations

import random

import pytest

from tests.app.program import dynprune, stopped
from tests.app.test_resume import SETTINGS, outcome

# Settings that move the good places to save: half-filled gradient accumulation, several validations an epoch, an
# optimizer with momentum, and masks that change behind the last batch of an epoch.
SITUATIONS = {
    "accumulation": ("trainer.accumulate_grad_batches=3", "schedule.every=1"),
    "validation in mid-epoch": ("+trainer.val_check_interval=4", "optimizer=sgd", "threshold.scope=erk"),
    "updates by epoch": ("schedule.begin='1 epochs'", "schedule.every='1 epochs'", "schedule.end='3 epochs'"),
}
STEPS = {"accumulation": 12, "validation in mid-epoch": 30, "updates by epoch": 30}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_run_killed_at_random_in_each_training_ends_as_the_unbroken_one(situation, tmp_path):
    # A string seeds the same numbers in every process, so a failure is found again.
    chance = random.Random(situation)
    settings = (*SETTINGS, *SITUATIONS[situation], "strategy=taylor", "hydra.run.dir=run")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = dynprune(*settings, folder=tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr

    place = {"folder": tmp_path / "killed"}
    arguments = settings
    for phase in ("dense", "pruned"):
        step = chance.randint(1, STEPS[situation] - 1)
        killed = stopped(phase, "on_train_batch_end", step, *arguments, **place)
        assert killed.returncode == -9, (phase, step, killed.stderr)
        arguments = ("resume=run",)
    resumed = dynprune(*arguments, **place)
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(tmp_path / "killed" / "run") == outcome(tmp_path / "whole" / "run")
