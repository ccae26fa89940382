"""Runs of the program with ``distill=dense``: the teacher is the dense control, also after a kill."""

from __future__ import annotations

import json

from safetensors.torch import load_file

from tests.app.program import SHORT, dynprune, results, stopped

DISTILLED = (*SHORT, "distill=dense", "distill.alpha=0.9", "strategy=magnitude")


def test_a_run_that_is_killed_resumes_to_the_same_end_and_differs_from_one_without_a_teacher(tmp_path):
    for name, settings in (("whole", DISTILLED), ("plain", (*SHORT, "strategy=magnitude"))):
        done = dynprune(*settings, f"hydra.run.dir={name}", folder=tmp_path)
        assert done.returncode == 0, done.stderr
    whole, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "plain"))
    assert any(not (whole[key] == plain[key]).all() for key in whole)
    assert json.loads((tmp_path / "whole" / "results.json").read_text())["config"]["distill"]["alpha"] == 0.9
    steps = results(tmp_path / "whole")["steps"]
    ended = stopped("pruned", "on_train_batch_end", steps // 2, *DISTILLED, "hydra.run.dir=run", folder=tmp_path)
    assert ended.returncode == -9, ended.stderr
    done = dynprune(f"resume={tmp_path / 'run'}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    resumed = load_file(tmp_path / "run" / "model.safetensors")
    assert all((whole[key] == resumed[key]).all() for key in whole)


def test_without_the_dense_control_there_is_no_teacher(tmp_path):
    done = dynprune(*SHORT, "distill=dense", "dense=false", folder=tmp_path)
    assert done.returncode == 1
    assert "distill=dense needs dense=true, as the dense control is the teacher" in done.stderr
