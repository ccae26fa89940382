"""Settings of a pruner, built and checked without a model."""

from __future__ import annotations

import pytest

from lightning_dynprune.engine import Pruner, Settings
from lightning_dynprune.patterns import PATTERNS
from lightning_dynprune.schedules import Cubic, Schedule
from lightning_dynprune.strategies import Magnitude, Taylor
from lightning_dynprune.thresholds import TopK


def test_names_are_built_and_missing_parts_are_those_of_the_strategy():
    settings = Settings.build(sparsity=0.9)
    assert isinstance(settings.strategy, Taylor)
    assert isinstance(settings.threshold, TopK)
    assert settings.schedule == Cubic(0.9)
    assert settings.pattern == PATTERNS.build("element")
    assert settings.journal == {}
    assert settings.final_sparsity == 0.9


def test_an_instance_is_kept_and_a_mapping_without_a_name_changes_the_strategys_own_part():
    strategy = Magnitude()
    settings = Settings.build(sparsity=0.5, strategy=strategy, schedule={"begin": 0, "end": 3, "every": 1})
    assert settings.strategy is strategy
    assert settings.schedule == Cubic(0.5, begin=0, end=3, every=1)


@pytest.mark.parametrize(
    "decided",
    [{"pattern": {"name": "n_m", "n": 2, "m": 4}}, {"targets": {"*": 0.5}, "threshold": {"scope": "layer"}}],
    ids=["by the pattern", "by the targets"],
)
@pytest.mark.parametrize("sparsity", [None, 0.5])
def test_a_schedule_whose_end_depends_on_the_model_is_left_as_it_was_given(decided, sparsity):
    settings = Settings.build(sparsity=sparsity, **decided)
    assert not isinstance(settings.schedule, Schedule)
    assert settings.final_sparsity == sparsity


def test_settings_as_arguments_give_the_same_settings():
    settings = Settings.build(
        sparsity=0.5, strategy="magnitude", exclude="head.*", min_kept=2, rewind=3, journal={"cap": 1.0}, seed=7
    )
    assert Settings.build(**settings.arguments()) == settings
    assert Settings.build(**Settings.build(sparsity=0.5, journal=False).arguments()).journal is None


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "sparsity=None: no final sparsity is given"),
        ({"sparsity": 1.0}, ValueError, "sparsity=1.0 is not accepted"),
        ({"sparsity": 0.5, "strategy": "nothing"}, ValueError, "strategy='nothing' is unknown"),
        ({"sparsity": 0.5, "min_kept": 0}, ValueError, "min_kept=0 is not accepted"),
        ({"sparsity": 0.5, "reconstruct": 1}, TypeError, "reconstruct=1 is not accepted; give true or false"),
        ({"sparsity": 0.5, "rewind": -1, "strategy": "magnitude"}, ValueError, "rewind=-1 is not accepted"),
        ({"sparsity": 0.5, "rewind": 3, "strategy": "surgery"}, ValueError, "rewind=3 does not go with strategy=Surg"),
        ({"sparsity": 0.5, "journal": {"size": 3}}, ValueError, "journal={'size': 3} is not accepted"),
        ({"sparsity": 0.5, "seed": 0.5}, TypeError, "seed=0.5 is not a whole number"),
        ({"sparsity": 0.5, "schedule": Cubic(0.6)}, ValueError, "contradicts the schedule's"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_without_a_model(given, error, message):
    with pytest.raises(error, match=message):
        Settings.build(**given)


def test_a_pruner_takes_every_setting_under_its_name():
    names = set(Settings.build(sparsity=0.5).arguments())
    assert names <= set(Pruner.__init__.__annotations__)
