"""Kills at steps that nobody chose, in trainings whose good places to save lie elsewhere than usual."""

from __future__ import annotations

import random

import pytest

from tests.app.program import dynprune, stopped
from tests.app.runs.test_resume import SETTINGS, outcome

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


def test_ctrl_c_amid_an_accumulated_gradient_saves_no_half_of_it(tmp_path):
    # 10 batches an epoch, 3 a step: the batch that starts behind step 6 is the first of its three.
    settings = (*SETTINGS, *SITUATIONS["accumulation"], "hydra.run.dir=run", "dense=false")
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    assert dynprune(*settings, folder=tmp_path / "whole").returncode == 0
    broken = stopped("pruned", "on_train_batch_start", 6, *settings, folder=tmp_path / "broken", by="SIGINT")
    assert broken.returncode == 130, broken.stderr
    assert dynprune("resume=run", folder=tmp_path / "broken").returncode == 0
    weights = [(tmp_path / name / "run" / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
