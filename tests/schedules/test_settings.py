"""Settings of a part that are schedules have a value at every moment; all other settings stay."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lightning_dynprune.schedules import Clock, Cosine, Horizon, Linear, OneShot, resolve_settings, settings_at
from lightning_dynprune.schedules.base import Schedule

TEN = Horizon(steps=10)


@dataclass(frozen=True)
class Part:
    share: float | Schedule = 0.5
    name: str = "x"


def test_a_scheduled_setting_has_its_value_at_a_moment_and_the_others_stay():
    part = resolve_settings(Part(Linear(0.8, begin=0, end=10, every=1), name="y"), TEN)
    assert settings_at(part, Clock(5)) == Part(pytest.approx(0.4), "y")
    assert settings_at(part, Clock(10)) == Part(0.8, "y")
    plain = Part(0.3)
    assert settings_at(plain, Clock(5)) is plain


def test_shares_of_the_training_become_steps():
    part = resolve_settings(Part(Cosine(0.8, begin=0.25, end=0.75)), Horizon(steps=100))
    assert isinstance(part.share, Cosine)
    assert part.share.span is not None
    assert (part.share.span.begin, part.share.span.end) == (25, 75)
    plain = Part(0.3)
    assert resolve_settings(plain, Horizon(steps=100)) is plain


def test_an_update_before_the_first_step_is_due_at_step_0_alone_and_where_something_is_pruned():
    now, never, later = (OneShot(0.5, begin=0), Linear(0.5, begin=0, end=10, every=1), OneShot(0.5, begin=3))
    assert now.resolve(TEN).is_due_at_start(Clock(0))
    assert not now.resolve(TEN).is_due_at_start(Clock(1))
    assert not never.resolve(TEN).is_due_at_start(Clock(0))
    assert not later.resolve(TEN).is_due_at_start(Clock(0))
