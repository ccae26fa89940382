"""A checkpoint from elsewhere cannot make ``resume`` run code or read settings from outside."""

from __future__ import annotations

import pytest
import torch

from lightning_dynprune.app.runs import ResumeError, expand_resume, validate_same_settings
from lightning_dynprune.app.runs.resume import safe_overrides
from tests.app.program import dynprune, words


@pytest.mark.parametrize(
    "override",
    ["model=../../../tmp/evil", "+x@model=../evil", "model='../evil'", "model=${a}${a}/evil", "+data_dir@model=../x"],
)
def test_an_override_that_leaves_the_folders_of_settings_is_refused(override):
    with pytest.raises(ResumeError, match="which may run code"):
        safe_overrides([override])


def test_what_places_a_run_is_dropped_and_what_describes_it_is_kept():
    described = ["sparsity=0.5", "+optimizer.amsgrad=true", "data_dir=../data", "targets.include='*.fc1.*'", "~logger"]
    placed = ["hydra.run.dir=/elsewhere", "+hydra.x=1", "hydra/launcher=joblib", "resume=/old"]
    assert safe_overrides([*placed, *described]) == described


def test_a_planted_checkpoint_runs_nothing(tmp_path):
    (tmp_path / "evil.yaml").write_text(f"_target_: os.mkdir\npath: {tmp_path / 'pwned'}\n")
    climb = "/".join([".."] * 12)
    run = {"overrides": [f"model={climb}{tmp_path}/evil"], "config_dirs": [], "config": "{}"}
    torch.save({"callbacks": {"LastCheckpoint": run}}, tmp_path / "last.ckpt")
    refused = dynprune(f"resume={tmp_path}", folder=tmp_path)
    assert refused.returncode == 1
    assert "which may run code" in words(refused.stderr)
    assert not (tmp_path / "pwned").exists()


def test_a_pickle_that_calls_something_is_not_unpickled(tmp_path):
    class Call:
        def __reduce__(self):
            return print, ("called",)

    torch.save({"callbacks": Call()}, tmp_path / "last.ckpt")
    with pytest.raises(ResumeError, match="not a checkpoint that is safe to load"):
        expand_resume([f"resume={tmp_path}"])


def test_the_arguments_are_the_runs_own_then_those_typed_then_its_folder(tmp_path):
    folder = tmp_path / "it's a run"
    folder.mkdir()
    run = {"overrides": ["sparsity=0.5", "seed=1"], "config_dirs": [], "config": "{}"}
    torch.save({"callbacks": {"LastCheckpoint": run}}, folder / "dense.ckpt")
    quoted = str(folder).replace("'", "\\'")
    assert expand_resume([f"resume={folder}", "progress=false"]) == [
        "sparsity=0.5",
        "seed=1",
        "progress=false",
        f"resume='{quoted}'",
        f"hydra.run.dir='{quoted}'",
    ]


def test_changes_are_named_with_both_values_and_places_do_not_count():
    now = {"data_dir": "/b", "seed": 1, "resume": "x"}
    validate_same_settings({"config": '{"data_dir": "/a", "seed": 1, "resume": null}'}, now, now)
    now = {"optimizer": {"lr": 0.2}}
    with pytest.raises(ResumeError, match=r"Changed: optimizer.lr: 0.1 -> 0.2; seed: 1 -> \"absent\""):
        validate_same_settings({"config": '{"optimizer": {"lr": 0.1}, "seed": 1}'}, now, now)
