"""Contenders take turns, and what is reported is the median of their rounds."""

from __future__ import annotations

import gc
import itertools
import time

import pytest
import torch

from lightning_dynprune.deploy.timing import Latency, Ratio, Rounds, latencies, latency, time_interleaved
from lightning_dynprune.deploy.timing.latency import ratios
from tests.deploy.fake_clock import FakeClock


@pytest.fixture
def clock(monkeypatch):
    made = FakeClock()
    monkeypatch.setattr(latency, "read_clocks", made.read)
    return made


def test_a_latency_is_the_median_and_the_quartiles_of_the_rounds():
    rounds = Rounds({"a": [1.0, 5.0, 3.0, 2.0, 4.0]}, {"a": [0.1, 0.5, 0.3, 0.2, 0.4]}, "cpu")
    assert rounds.latency("a") == Latency(3.0, 2.0, 4.0, 5)
    assert rounds.latency("a", "cpu") == Latency(0.3, 0.2, 0.4, 5)


def test_a_ratio_is_the_median_over_rounds_not_the_ratio_of_medians():
    rounds = Rounds({"dense": [1.0, 2.0, 9.0], "half": [1.0, 1.0, 3.0]}, {}, "wall")
    assert rounds.ratio("half", "dense") == Ratio(2.0, 1.5, 2.5, 3)
    assert rounds.ratio("dense", "half").median == 0.5


def test_a_ratio_is_read_from_the_clock_of_the_rounds():
    rounds = Rounds({"dense": [1.0], "half": [1.0]}, {"dense": [4.0], "half": [2.0]}, "cpu")
    assert rounds.ratio("half", "dense").median == 2.0
    assert rounds.ratio("half", "dense", "wall").median == 1.0


def test_cpu_time_is_the_clock_of_one_thread_alone(monkeypatch):
    for threads, clock in ((1, "cpu"), (2, "wall")):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert time_interleaved({"a": lambda: None}, rounds=1).clock == clock


def test_sleep_shows_in_the_wall_clock_and_not_in_cpu_time():
    rounds = time_interleaved({"sleep": lambda: time.sleep(0.01)}, rounds=3)
    assert rounds.latency("sleep").low >= 0.01
    assert rounds.latency("sleep", "cpu").median < rounds.latency("sleep").median


def test_wall_and_cpu_time_are_kept_apart(clock):
    rounds = time_interleaved({"a": lambda: clock.advance(wall=0.25, cpu=0.125)}, rounds=3)
    assert rounds.latency("a").median == pytest.approx(0.25, rel=1e-4)
    assert rounds.latency("a", "cpu").median == pytest.approx(0.125, rel=1e-4)


def test_no_contender_follows_itself_and_all_take_as_many_turns(monkeypatch):
    turns = []
    monkeypatch.setattr(latency, "_MIN_SECONDS", 0.0)  # one call a turn
    names = ("a", "b", "c")
    time_interleaved({name: lambda name=name: turns.append(name) for name in names}, rounds=40)
    turns = turns[-2 * 3 * 40 :]
    warming, counted = turns[::2], turns[1::2]
    assert warming == counted  # a turn starts with a call that is not counted
    assert all(counted.count(name) == 40 for name in names)
    assert all(first != second for first, second in itertools.pairwise(counted))
    assert len({tuple(counted[i : i + 3]) for i in range(0, 120, 3)}) > 3  # no fixed order


def test_the_order_of_turns_is_the_same_in_every_run(monkeypatch):
    monkeypatch.setattr(latency, "_MIN_SECONDS", 0.0)
    runs: list[list[str]] = [[], []]
    for run in runs:
        time_interleaved({name: lambda name=name, run=run: run.append(name) for name in "abcd"}, rounds=10)
    assert runs[0] == runs[1]


def test_a_short_call_is_repeated_until_the_turn_is_long_enough(clock, monkeypatch):
    calls_between_readings = [0]

    def short() -> None:
        calls_between_readings[-1] += 1
        clock.advance(1e-5)

    def read() -> tuple[int, int]:
        calls_between_readings.append(0)
        return clock.read()

    monkeypatch.setattr(latency, "read_clocks", read)
    found = latencies({"short": short}, rounds=3)
    timed = calls_between_readings[-6::2]
    assert timed == [timed[0]] * 3
    assert latency._MIN_SECONDS <= timed[0] * 1e-5 <= 2 * latency._MIN_SECONDS
    assert found["short"].median == pytest.approx(1e-5, rel=0.05)


def test_rounds_fill_the_seconds_given_within_bounds(clock):
    def rounds(seconds: float) -> int:
        return latencies({"a": lambda: clock.advance(0.005)}, seconds=seconds)["a"].rounds

    assert rounds(0.001) == 7
    assert rounds(0.102) == 20
    assert rounds(100.0) == 501


def test_twice_the_work_is_half_as_fast(clock):
    found = ratios({"one": lambda: clock.advance(0.01), "two": lambda: clock.advance(0.02)}, "one", seconds=0.3)
    assert found["one"].median == 1.0
    assert found["two"].median == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled):
    before = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        seen = []
        with pytest.raises(ZeroDivisionError):
            latencies({"a": lambda: seen.append(gc.isenabled()) or 1 / 0})
        assert seen == [False]
        assert gc.isenabled() is enabled
    finally:
        gc.enable() if before else gc.disable()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contenders": {}}, "contenders is empty"),
        ({"seconds": 0.0}, r"seconds=0.0 is not accepted"),
        ({"seconds": float("nan")}, "seconds=nan is not a finite number"),
        ({"rounds": 0}, "rounds=0 is not accepted"),
        ({"rounds": 2.5}, "rounds=2.5 is not a whole number"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        time_interleaved(**({"contenders": {"a": lambda: None}} | arguments))


def test_a_base_that_is_no_contender_is_refused():
    with pytest.raises(ValueError, match="base='dense' is not in contenders; give one of a, b"):
        ratios({"a": lambda: None, "b": lambda: None}, "dense")
