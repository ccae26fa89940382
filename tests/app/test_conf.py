"""The shipped configuration: every part has its YAML, with the class's own settings and defaults."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from lightning_dynprune.adaptive import METHODS
from lightning_dynprune.app.settings_folder import conf_dir
from lightning_dynprune.deploy.forecast import preflight
from lightning_dynprune.deploy.measurement import measure
from lightning_dynprune.patterns import PATTERNS
from lightning_dynprune.schedules import SCHEDULES
from lightning_dynprune.strategies import STRATEGIES
from lightning_dynprune.thresholds import THRESHOLDS

ROOT = Path(__file__).parents[2]
REGISTRIES = {
    "strategy": STRATEGIES,
    "threshold": THRESHOLDS,
    "schedule": SCHEDULES,
    "pattern": PATTERNS,
    "adaptive": METHODS,
}
# theta has no default in the class, for none suits all networks; the file gives a number to start from.
WITHOUT_DEFAULT = {("threshold", "fixed", "theta"), *(("schedule", name, "final") for name in SCHEDULES.names())}
# What these two are before they jump to their value is never read.
LEFT_OUT = {("schedule", "constant", "initial"), ("schedule", "one_shot", "initial")}
PARTS = [(group, name) for group, registry in REGISTRIES.items() for name in registry.names()]


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@pytest.mark.parametrize("group", REGISTRIES)
def test_a_group_has_a_file_for_each_registered_part_and_no_other(group):
    # The strategy's own; no per-input pruning.
    own = {"threshold": ["default"], "schedule": ["default"], "adaptive": ["none"]}.get(group, [])
    assert options(group) == sorted([*REGISTRIES[group].names(), *own])


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_a_file_names_all_settings_of_its_class_at_their_defaults(group, name):
    cls = REGISTRIES[group][name]
    settings = OmegaConf.load(conf_dir() / group / f"{name}.yaml")
    settings = settings.get(group, settings)  # a file may set the sparsity as well
    assert get_class(settings.pop("_target_")) is cls
    fields = {field.name: field.default for field in dataclasses.fields(cls) if field.init}
    fields = {setting: fields[setting] for setting in fields if (group, name, setting) not in LEFT_OUT}
    assert set(settings) == set(fields)
    for setting, default in fields.items():
        if (group, name, setting) not in WITHOUT_DEFAULT:
            given = settings[setting]
            assert (instantiate(given) if OmegaConf.is_config(given) else given) == default, setting


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_a_part_chosen_on_the_command_line_is_the_one_that_is_made(group, name):
    part = instantiate(composed(f"{group}={name}", "sparsity=0.6")[group])
    assert type(part) is REGISTRIES[group][name]
    if group == "schedule":
        assert part.final == 0.6


@pytest.mark.parametrize(
    "group", ["task", "model", "optimizer", "trainer", "logger", "targets", "data", "recipe", "guard"]
)
def test_every_option_of_the_other_groups_composes(group):
    assert options(group)
    for name in options(group):
        assert composed(f"{group}={name}")


@pytest.mark.parametrize("name", options("optimizer"))
def test_an_optimizer_is_made_from_parameters(name):
    import torch

    make = instantiate(composed(f"optimizer={name}").optimizer)
    optimizer = make([torch.nn.Parameter(torch.ones(2))])
    assert type(optimizer).__name__.lower() == name


@pytest.mark.parametrize(("task", "function"), [("deploy", measure), ("preflight", preflight)])
def test_a_task_has_the_defaults_of_what_it_calls(task, function):
    settings = OmegaConf.to_container(OmegaConf.load(conf_dir() / "task" / f"{task}.yaml"))
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    shared = {name: value for name, value in settings.items() if name in defaults and name != "calibration"}
    assert len(shared) > 2
    assert all(tuple(v) == defaults[n] if isinstance(v, list) else v == defaults[n] for n, v in shared.items())


def test_training_is_the_task_without_a_task_and_has_no_settings_of_its_own():
    assert composed() == composed("task=train")
    assert "task" not in composed()
    assert OmegaConf.load(conf_dir() / "task" / "train.yaml") == {}


def test_the_recipe_asks_for_one_parameter_in_56_of_lenet_300_100():
    settings = composed("data=mnist", "recipe=lenet_300_100_56x")
    weights = 784 * 300 + 300 * 100 + 100 * 10
    left = weights - round(settings.sparsity * weights) + 410
    assert 266_610 / left >= 56
    assert settings.model._target_.endswith("LeNet300100")


def test_the_wheel_holds_the_configuration(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling is not installed, so no wheel can be built offline")
    build = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(tmp_path)], check=True, capture_output=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    inside = "lightning_dynprune/conf/"
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name.removeprefix(inside) for name in names if name.startswith(inside)}
    assert shipped == {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    assert "config.yaml" in shipped
