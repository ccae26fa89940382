"""A folder from elsewhere leads no writing out of it, is not read as settings, and prints no terminal commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lightning_dynprune.app.runs import (
    PHASES,
    ResumeError,
    RunFolder,
    check_no_links,
    expand_resume,
    lock_run_folder,
    quote_path,
    safe_overrides,
    validate_overrides,
    validate_same_settings,
)
from lightning_dynprune.app.runs.recorded_settings import recorded_settings, settings_digest
from lightning_dynprune.app.settings_folder import conf_dir
from tests.app.program import SHORT, dynprune, stopped, words
from tests.fuzzing.attacks import CHECKPOINT

ESCAPES = "\x1b]0;title\x07\x1b[31m\u202e"


@pytest.fixture
def victim(tmp_path) -> Path:
    """A file outside the run's folder that nothing may change."""
    path = tmp_path / "victim"
    path.write_text("as it was")
    return path


@pytest.mark.parametrize("name", [".lock", ".hydra", "logs", "logs/pruned/metrics.csv", "exports"])
def test_a_run_does_not_write_through_a_link_in_its_folder(name, tmp_path, victim):
    folder = tmp_path / "run"
    link = folder / name
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    with (
        pytest.raises(FileExistsError, match="is a symbolic link, through which files outside"),
        lock_run_folder(folder),
    ):
        pass
    refused = dynprune(*SHORT, f"hydra.run.dir={folder}", folder=tmp_path)
    assert refused.returncode == 1
    assert f"{name} is a symbolic link" in words(refused.stderr)
    assert victim.read_text() == "as it was"
    assert sorted(path.name for path in folder.iterdir()) == [name.partition("/")[0]]


def test_a_link_to_nowhere_is_refused_too(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "new")
    with pytest.raises(FileExistsError, match=r"\.lock is a symbolic link"), lock_run_folder(tmp_path / "run"):
        pass
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["multirun.yaml", "refused", "dense", "0"])
def test_a_sweep_does_not_write_through_a_link_in_its_folder(name, tmp_path, victim):
    (tmp_path / "sweep").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "sweep" / name).symlink_to(victim if name == "multirun.yaml" else outside)
    arguments = ("-m", *SHORT, "sparsity=0.5", "hydra.sweep.dir=sweep")
    refused = dynprune(*arguments, folder=tmp_path)
    assert refused.returncode == 1
    assert "is a symbolic link" in words(refused.stdout + refused.stderr)
    assert victim.read_text() == "as it was"
    assert list(outside.iterdir()) == []


def test_links_above_a_sweep_are_the_users_own(tmp_path):
    (tmp_path / "disk" / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    check_no_links(tmp_path / "link" / "sweep" / "0", tmp_path / "link" / "sweep")


def test_a_folder_whose_name_is_an_interpolation_is_resumed_and_values_of_the_environment_are_not_written(tmp_path):
    note = "+note=${oc.env:PATH}"
    halted = stopped(
        "pruned", "on_train_batch_end", 15, *SHORT, "dense=false", note, "hydra.run.dir=run", folder=tmp_path
    )
    assert halted.returncode == -9, halted.stderr
    folder = tmp_path / "it's \\${oc.env:PATH}\\"
    (tmp_path / "run").rename(folder)
    refused = dynprune(f"resume={folder}", folder=tmp_path)
    assert "which may run code or write elsewhere" in words(refused.stderr)
    resumed = dynprune(f"resume={folder}", note, folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert json.loads((folder / "results.json").read_text())["config"]["note"] == "${oc.env:PATH}"
    secret = os.environ["PATH"]
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert {"results.json", "last.ckpt", "config.yaml"} <= {path.name for path in written}
    assert not [path for path in written if secret.encode() in path.read_bytes()]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["\\", "'", "${", "$", "}", "{seed}", "${seed}", "a", " ", ",", "=", "é"]), max_size=8))
def test_any_name_of_a_folder_is_read_by_hydra_as_it_is(parts):
    name = "/x" + "".join(parts)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert compose("config", [f"resume={quote_path(Path(name))}"]).resume == str(Path(name))


def test_a_value_of_the_environment_that_has_changed_is_noticed_and_not_printed(monkeypatch):
    monkeypatch.setenv("RATE", "secret1")
    cfg = OmegaConf.create({"lr": "${oc.env:RATE}", "same": "${lr}", "seed": 1})

    def now() -> tuple[dict, dict]:
        return recorded_settings(cfg), OmegaConf.to_container(cfg, resolve=True)

    recorded, config = now()
    assert recorded == {"lr": "${oc.env:RATE}", "same": "${oc.env:RATE}", "seed": 1}
    run = {"config": json.dumps(recorded), "digest": settings_digest(config)}
    validate_same_settings(run, *now())
    validate_same_settings({"config": json.dumps(config)}, *now())  # as an earlier release wrote it
    monkeypatch.setenv("RATE", "secret2")
    with pytest.raises(
        ResumeError, match="another value of lr, same, which the settings take from elsewhere"
    ) as refused:
        validate_same_settings(run, *now())
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("phase", PHASES)
def test_every_checkpoint_in_the_folder_is_looked_at_before_it_is_loaded(phase, tmp_path):
    folder = RunFolder(tmp_path, [], {}, resuming=True)
    run = {"overrides": [], "config_dirs": [], "config": "{}"}
    for name in PHASES:
        torch.save({"callbacks": {"LastCheckpoint": run}}, folder.checkpoint(name))
    folder.validate_checkpoints()
    folder.checkpoint(phase).write_bytes(CHECKPOINT["expanded_slot"]())
    with pytest.raises(ResumeError, match="has more entries than its storage"):
        folder.validate_checkpoints()


@pytest.mark.parametrize(
    "run",
    [
        {"overrides": [f"+a=$x{ESCAPES}"]},
        {"config_dirs": [ESCAPES]},
        {"overrides": ["sparsity=0.5"], "config": json.dumps({ESCAPES: 1})},
        {"overrides": [f"+{ESCAPES}=1"]},
    ],
    ids=["override", "config_dir", "key", "key of an override"],
)
@pytest.mark.parametrize("debugging", [False, True], ids=["message", "error"])
def test_terminal_commands_of_a_checkpoint_are_printed_as_text(run, debugging, tmp_path):
    whole = {"overrides": [], "config_dirs": [], "config": "{}", **run}
    torch.save({"callbacks": {"LastCheckpoint": whole}}, tmp_path / "last.ckpt")
    if debugging:
        use = expand_resume if run.keys() - {"config"} and "config" not in run else None
        with pytest.raises(ResumeError) as refused:
            use([f"resume={tmp_path}"]) if use else validate_same_settings(whole, {}, {})
        printed = str(refused.value)
    else:
        printed = dynprune(f"resume={tmp_path}", folder=tmp_path).stderr
    assert "\\x1b]0;title" in printed
    assert not [char for char in ("\x1b", "\x07", "\u202e") if char in printed]


def test_a_list_of_overrides_that_takes_minutes_to_parse_is_refused_at_once(tmp_path):
    for overrides in ([f"+a{n}=1" for n in range(20_000)], ["+a=" + ",".join("b" * 20_000)], ["+a=" + "b" * 2**17]):
        run = {"overrides": overrides, "config_dirs": [], "config": "{}"}
        torch.save({"callbacks": {"LastCheckpoint": run}}, tmp_path / "last.ckpt")
        with pytest.raises(ResumeError, match=r"overrides of .* characters with .* values; accepted are 1000"):
            expand_resume([f"resume={tmp_path}"])
    with pytest.raises(ValueError, match="20000 overrides"):
        validate_overrides([f"+a{n}=1" for n in range(20_000)])
    assert safe_overrides(["sparsity=0.5"]) == ["sparsity=0.5"]


def test_a_temporary_file_is_not_written_through_a_link(tmp_path, victim, monkeypatch):
    from lightning_dynprune.base import write_text

    monkeypatch.setattr("threading.get_native_id", lambda: 7)
    (tmp_path / f".x.{os.getpid()}-7.json").symlink_to(victim)
    write_text(tmp_path / "x.json", "new")
    assert victim.read_text() == "as it was"
    assert (tmp_path / "x.json").read_text() == "new"
