"""Curves against their formulas, and moments in every unit."""

from __future__ import annotations

import math

import pytest

from lightning_dynprune.schedules import Clock, Constant, Cosine, Cubic, Exponential, Horizon, Linear, OneShot, Span

HORIZON = Horizon(steps=1000, steps_per_epoch=100)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Linear(0.8), [0.0, 0.2, 0.4, 0.6, 0.8]),
        (Linear(0.8, initial=0.4), [0.4, 0.5, 0.6, 0.7, 0.8]),
        (Cubic(0.8), [0.0, 0.4625, 0.7, 0.7875, 0.8]),
        (Cubic(0.8, power=1), [0.0, 0.2, 0.4, 0.6, 0.8]),
        (Cosine(0.8), [0.0, 0.4 * (1 - math.sqrt(0.5)), 0.4, 0.4 * (1 + math.sqrt(0.5)), 0.8]),
        (Exponential(0.9375), [0.0, 0.5, 0.75, 0.875, 0.9375]),
        (Constant(0.8), [0.8] * 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_curves_pass_through_the_values_of_their_formula(schedule, values):
    assert [schedule.curve(x / 4) for x in range(5)] == pytest.approx(values)


def test_cubic_is_zhu_and_gupta_equation_1():
    schedule = Cubic(0.9, initial=0.1, begin="100 steps", end="500 steps", every="10 steps").resolve(HORIZON)
    for step in (100, 170, 333, 499):
        expected = 0.9 + (0.1 - 0.9) * (1 - (step - 100) / 400) ** 3
        assert schedule.value(Clock(step)) == pytest.approx(expected)
    assert schedule.value(Clock(99)) == 0.1
    assert schedule.value(Clock(501)) == 0.9


@pytest.mark.parametrize(
    ("moments", "span"),
    [
        ({}, Span("steps", 250, 750, 10)),
        ({"begin": 7, "end": "93 steps", "every": 20}, Span("steps", 7, 93, 20)),
        ({"begin": "1 epoch", "end": 0.5, "every": 50}, Span("steps", 100, 500, 50)),
        ({"begin": 0, "end": 1.0, "every": 0.0001}, Span("steps", 0, 1000, 1)),
        ({"begin": 0.2, "end": "8 epochs", "every": "2 epochs"}, Span("epochs", 2, 8, 2)),
        ({"begin": "200 steps", "end": 0.7, "every": "1 epoch"}, Span("epochs", 2, 7, 1)),
        ({"begin": "1.5 epochs", "end": 500, "every": "10 Steps"}, Span("steps", 150, 500, 10)),
    ],
)
def test_moments_count_in_the_unit_of_every(moments, span):
    assert Linear(0.5, **moments).resolve(HORIZON).span == span


def test_updates_are_due_at_begin_every_so_often_and_at_the_end():
    schedule = Linear(0.5, begin=3, end=10, every=4).resolve(Horizon())
    assert [s for s in range(20) if schedule.is_due(Clock(s))] == [3, 7, 10]
    assert not any(schedule.is_due(Clock(s), "epochs") for s in range(20))


def test_epoch_updates_are_due_on_epoch_events_alone():
    schedule = Linear(0.5, begin="1 epoch", end="3 epochs", every="2 epochs").resolve(Horizon())
    assert [e for e in range(6) if schedule.is_due(Clock(epoch=e), "epochs")] == [1, 3]
    assert not schedule.is_due(Clock(step=1, epoch=1), "steps")


@pytest.mark.parametrize(("begin", "unit"), [(5, "steps"), (0.5, "steps"), ("2 epochs", "epochs")])
def test_one_shot_updates_once(begin, unit):
    schedule = OneShot(0.5, begin=begin).resolve(Horizon(steps=10, steps_per_epoch=2))
    due = [n for n in range(11) if schedule.is_due(Clock(n, n), unit)]
    assert due == [schedule.span.begin]
    assert schedule.value(Clock(0, 0)) == 0.0
    assert schedule.value(Clock(10, 10)) == 0.5


def test_epochs_may_be_known_where_steps_are_not():
    assert Linear(0.5, begin=0.5, end=1.0, every="1 epoch").resolve(Horizon(epochs=8)).span == Span("epochs", 4, 8, 1)


def test_resolving_leaves_the_original_as_it_was():
    schedule = Linear(0.5)
    assert schedule.resolve(HORIZON) is not schedule
    assert schedule.span is None
    with pytest.raises(RuntimeError, match="has no step counts"):
        schedule.value(Clock())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Linear(0.5, every=0), ValueError, "every=0 never advances"),
        (lambda: Linear(0.5, every="3 weeks"), ValueError, "every='3 weeks' has an unknown unit; give an int"),
        (lambda: Linear(0.5, every="1.5 epochs"), ValueError, "every='1.5 epochs' is not a whole number of epochs"),
        (lambda: Linear(0.5, begin=-1), ValueError, "begin=-1 is out of range"),
        (lambda: Linear(0.5, end=1.5), ValueError, "end=1.5 is out of range"),
        (lambda: Linear(0.5, end=float("nan")), ValueError, "end=nan is out of range"),
        (lambda: Linear(0.5, begin=None), TypeError, "begin=None is not accepted"),
        (lambda: Linear(0.5, begin=True), TypeError, "begin=True is not accepted"),
        (lambda: Linear("0.5"), TypeError, "final='0.5' is not a finite number"),
        (lambda: Cubic(0.5, power=0), ValueError, "power=0 is not accepted"),
        (lambda: Exponential(1.5), ValueError, "final=1.5 is not accepted"),
        (
            lambda: Linear(0.5, begin=0.6, end=0.5).resolve(HORIZON),
            ValueError,
            r"end=0.5 \(500 steps\) lies before begin=0.6 \(600 steps\)",
        ),
        (
            lambda: Linear(0.5, end=2000).resolve(HORIZON),
            ValueError,
            r"end=2000 \(2000 steps\) lies after training, which ends at 1000 steps",
        ),
        (
            lambda: Linear(0.5, end="11 epochs", every="1 epoch").resolve(HORIZON),
            ValueError,
            "lies after training, which ends at 10 epochs",
        ),
        (
            lambda: Linear(0.5).resolve(Horizon()),
            ValueError,
            "begin=0.25 is a share of training, whose length is not known; give begin in steps",
        ),
        (
            lambda: Linear(0.5, begin="1 epoch", end=9, every=1).resolve(Horizon()),
            ValueError,
            "begin='1 epoch' cannot be counted in steps, as the steps of an epoch are not known",
        ),
    ],
)
def test_a_schedule_that_cannot_work_is_refused_in_words(make, error, message):
    with pytest.raises(error, match=message):
        make()
