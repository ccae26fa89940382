"""The plugin's groups and the callback made from them, in this process."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.utils import instantiate

from lightning_dynprune import DynamicPruning
from lightning_dynprune.app.hydra_apps.config_source import GROUPS, DynpruneConfigSource, DynpruneSearchPath
from lightning_dynprune.app.settings_folder import conf_dir
from lightning_dynprune.strategies import RigL


@pytest.fixture
def compose_here(tmp_path):
    """Return ``compose`` in a program that has no settings of its own."""
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    for plugin in (DynpruneConfigSource, DynpruneSearchPath):
        Plugins.instance().register(plugin)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        yield lambda *overrides: compose("config", overrides=list(overrides))


def test_a_callback_is_made_from_the_groups(compose_here):
    cfg = compose_here("+dynprune=default", "dynprune/strategy=rigl", "dynprune.sparsity=0.8", "dynprune.seed=${seed}")
    callback = instantiate(cfg.dynprune)
    assert isinstance(callback, DynamicPruning)
    assert isinstance(callback._settings.strategy, RigL)
    assert callback._settings.schedule.final == 0.8
    assert callback._settings.seed == 3


def test_a_pattern_with_a_sparsity_of_its_own_changes_that_of_the_callback_alone(compose_here):
    cfg = compose_here("+dynprune=default", "dynprune/pattern=n_m")
    assert "sparsity" not in cfg
    assert cfg.dynprune.pattern.n == 2
    assert cfg.dynprune.sparsity is None
    assert isinstance(instantiate(cfg.dynprune), DynamicPruning)


def test_the_example_slurm_settings_compose():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra sweep is not installed")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides=["hydra/launcher=slurm"], return_hydra_config=True)
        two = compose("config", overrides=["hydra/launcher=two_at_once"], return_hydra_config=True)
    assert cfg.hydra.launcher._target_.endswith("SlurmLauncher")
    assert cfg.hydra.launcher.timeout_min == 240
    assert two.hydra.launcher.n_jobs == 2


@pytest.mark.parametrize("group", GROUPS)
def test_every_name_of_a_group_composes(group, compose_here):
    names = DynpruneConfigSource("test", "dynprune://settings").list(f"dynprune/{group}", ObjectType.CONFIG)
    assert names == sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
    for name in names:
        assert "dynprune" in compose_here("+dynprune=default", f"dynprune/{group}={name}")


def test_other_groups_of_the_program_stay_out(compose_here):
    assert compose_here("+trainer=gpu").trainer == "gpu"  # a value, as there is no such group
    source = DynpruneConfigSource("test", "dynprune://settings")
    assert source.list("dynprune", ObjectType.GROUP) == sorted(GROUPS)
    assert not source.is_config("dynprune/trainer/gpu")
