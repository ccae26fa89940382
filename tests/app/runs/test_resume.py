"""``resume``: a run that was killed ends as the run that was not, to the bit."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_dynprune.app.runs import ResumeError, expand_resume
from lightning_dynprune.app.runs.resume import safe_overrides
from tests.app.program import SHORT, dynprune, results, stopped, words

# 1,200 training digits in batches of 128: 10 steps an epoch, 30 in all. Dropout draws from the global random state.
SETTINGS = (*SHORT, "model.dropout=0.3", "schedule.every=2")


def outcome(folder: Path) -> dict[str, Any]:
    return {
        "weights": (folder / "model.safetensors").read_bytes(),
        "dense": (folder / "dense.safetensors").read_bytes(),
        "results": results(folder),
    }


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what a run comes to that nothing stops, one a strategy."""
    made: dict[str, dict[str, Any]] = {}

    def run(strategy: str) -> dict[str, Any]:
        if strategy not in made:
            folder = tmp_path_factory.mktemp(strategy)
            done = dynprune(*SETTINGS, f"strategy={strategy}", "hydra.run.dir=run", folder=folder)
            assert done.returncode == 0, done.stderr
            made[strategy] = outcome(folder / "run")
        return made[strategy]

    return run


@pytest.mark.parametrize(
    ("strategy", "phase", "event", "step"),
    [
        ("magnitude", "dense", "on_train_batch_end", 1),
        ("magnitude", "dense", "on_train_batch_end", 7),
        ("magnitude", "dense", "on_train_batch_end", 30),
        ("magnitude", "dense", "on_test_start", 30),
        ("magnitude", "pruned", "on_train_batch_end", 1),
        ("magnitude", "pruned", "on_train_batch_end", 20),
        ("magnitude", "pruned", "on_validation_end", 20),
        ("magnitude", "pruned", "on_test_start", 30),
        ("taylor", "pruned", "on_train_batch_end", 13),
        ("taylor", "pruned", "on_train_epoch_end", 10),
        ("random", "pruned", "on_train_batch_end", 17),
    ],
)
def test_a_killed_run_ends_as_the_unbroken_one(strategy, phase, event, step, unbroken, tmp_path):
    expected = unbroken(strategy)
    killed = stopped(phase, event, step, *SETTINGS, f"strategy={strategy}", "hydra.run.dir=run", folder=tmp_path)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "run" / "results.json").exists()
    resumed = dynprune("resume=run", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(tmp_path / "run") == expected


def test_a_run_killed_twice_ends_as_the_unbroken_one(unbroken, tmp_path):
    expected = unbroken("magnitude")
    stopped("pruned", "on_train_batch_end", 9, *SETTINGS, "strategy=magnitude", "hydra.run.dir=run", folder=tmp_path)
    again = stopped("pruned", "on_train_batch_end", 26, "resume=run/last.ckpt", folder=tmp_path)
    assert again.returncode == -9, again.stderr
    assert dynprune("resume=run", folder=tmp_path).returncode == 0
    assert outcome(tmp_path / "run") == expected


def test_ctrl_c_saves_and_says_how_to_resume(unbroken, tmp_path):
    expected = unbroken("magnitude")
    interrupted = stopped(
        "pruned",
        "on_train_batch_end",
        16,
        *SETTINGS,
        "strategy=magnitude",
        "hydra.run.dir=run",
        folder=tmp_path,
        by="SIGINT",
    )
    assert interrupted.returncode == 130, interrupted.stderr
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] >= 16
    (command,) = re.findall(r"^ +dynprune (.*resume=.*)$", interrupted.stderr, re.MULTILINE)
    assert dynprune(*shlex.split(command), folder=tmp_path).returncode == 0
    assert outcome(tmp_path / "run") == expected


def test_other_settings_are_refused_by_name(tmp_path):
    stopped("pruned", "on_train_batch_end", 9, *SETTINGS, "hydra.run.dir=run", folder=tmp_path)
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    refused = dynprune("resume=run", "sparsity=0.5", folder=tmp_path)
    assert refused.returncode == 1
    assert "the run to resume had other settings" in words(refused.stderr)
    assert "sparsity: 0.9 -> 0.5" in words(refused.stderr)
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before


def test_what_is_no_checkpoint_is_refused_in_words(tmp_path):
    (tmp_path / "garbage.ckpt").write_bytes(b"not a checkpoint")
    (tmp_path / "empty").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    for path, message in [
        ("nowhere", "there is no such folder or file"),
        ("garbage.ckpt", "not a checkpoint that is safe to load"),
        ("empty", "holds neither last.ckpt nor dense.ckpt"),
        ("foreign.ckpt", "a checkpoint, but not one that dynprune wrote"),
    ]:
        with pytest.raises(ResumeError, match=message):
            expand_resume([f"resume={tmp_path / path}"])


@pytest.mark.parametrize(
    "override",
    [
        "model._target_=os.system",
        "+x={_target_: os.system}",
        "seed=${oc.env:HOME}",
        "++model={a: {_target_: b}}",
        "--run",
    ],
)
def test_an_override_that_could_name_code_is_refused_unless_typed_again(override):
    with pytest.raises(
        ResumeError, match="which may run code or write elsewhere; if you wrote it and trust it, type it again"
    ):
        safe_overrides([override])
    assert safe_overrides([override], given=[override]) == [override]


def test_a_folder_of_settings_is_not_taken_from_a_checkpoint(tmp_path):
    run = {"overrides": [], "config_dirs": ["/mine"], "config": "{}"}
    torch.save({"callbacks": {"LastCheckpoint": run}}, tmp_path / "last.ckpt")
    with pytest.raises(ResumeError, match=r"used settings from /mine.* give it again: dynprune --config-dir /mine"):
        expand_resume([f"resume={tmp_path}"])


def test_a_command_line_without_resume_is_left_alone():
    assert expand_resume(["sparsity=0.5", "-m"]) == ["sparsity=0.5", "-m"]
    with pytest.raises(ResumeError, match="one run at a time"):
        expand_resume(["-m", "resume=x"])


def test_a_run_with_a_folder_of_settings_goes_on_when_that_is_given_again(tmp_path):
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    own = "_target_: torch.optim.SGD\n_partial_: true\nlr: 0.1\n"
    (tmp_path / "mine" / "optimizer" / "plain.yaml").write_text(own)
    flags = ("--config-dir", "mine")
    settings = (*SETTINGS, "optimizer=plain", "dense=false", "hydra.run.dir=run")
    assert stopped("pruned", "on_train_batch_end", 9, *flags, *settings, folder=tmp_path).returncode == -9
    refused = dynprune("resume=run", folder=tmp_path)
    assert refused.returncode == 1
    assert "give it again: dynprune --config-dir" in words(refused.stderr)
    resumed = dynprune("resume=run", *flags, folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert results(tmp_path / "run")["steps"] == 30


def test_ctrl_c_before_anything_was_trained_promises_nothing(tmp_path):
    settings = (*SETTINGS, "dense=false", "hydra.run.dir=run")
    stopped_early = stopped("pruned", "on_fit_start", 0, *settings, folder=tmp_path, by="SIGINT")
    assert stopped_early.returncode == 130
    assert "Nothing had been trained yet" in stopped_early.stderr
    assert not (tmp_path / "run" / "last.ckpt").exists()
