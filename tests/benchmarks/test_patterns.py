"""Which pattern stands on the front, from records written out by hand."""

from __future__ import annotations

import doctest
import struct
from pathlib import Path

import patterns
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from patterns import Point


def point(label: str, accuracy: float, speed: float, size: float = 0.5, sparsity: float = 0.5) -> Point:
    return Point(label, sparsity, (accuracy,), {1: speed}, size, None, 0.0)


def record(error: float, speed: float | None, compact: int, slim: int | None = None) -> dict:
    ratio = {} if speed is None else {str(batch): {"median": speed} for batch in patterns.BATCHES}
    sizes = {"dense": 100, "compact": compact, **({} if slim is None else {"slim": slim})}
    return {"test_error": error, "test_loss": 1.0, "ratio": ratio, "bytes": sizes}


def test_on_the_front_is_what_nothing_else_beats_in_time_and_accuracy() -> None:
    dense = point("dense", 90.0, 0.0)
    block = point("block 32x1", 89.0, 2.0)
    beaten = point("element", 88.0, 1.5)
    channel = point("channel", 85.0, 4.0)

    assert patterns.front([channel, beaten, dense, block], 1) == [dense, block, channel]


def test_what_is_not_faster_than_dense_is_not_on_the_front_of_latency_however_accurate() -> None:
    dense, element = point("dense", 90.0, 0.0), point("element", 91.0, 1.0)
    unmeasured = Point("2:4", 0.5, (92.0,), {}, 0.4, None, 0.0)

    assert patterns.front([dense, element, unmeasured], 1) == [dense]
    assert patterns.front([dense, element, unmeasured], "bytes") == [unmeasured]


def test_equal_points_stand_on_the_front_together() -> None:
    twins = [point("block 16x1", 89.0, 2.0), point("block 32x1", 89.0, 2.0)]

    assert patterns.front(twins, 1) == twins


SPOTS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=12)


@given(SPOTS)
def test_the_front_falls_in_accuracy_as_it_falls_in_bytes_and_covers_all_others(spots: list[tuple[int, int]]) -> None:
    found = [point("element", 80.0 + accuracy, 0.0, size / 10) for accuracy, size in spots]
    best = patterns.front(found, "bytes")
    places = [(one.bytes, one.accuracy) for one in best]

    assert best
    assert places == sorted(places, reverse=True)
    assert all(any(b <= one.bytes and a >= one.accuracy for b, a in places) for one in found)


def test_points_are_means_over_the_finished_seeds_and_medians_of_speed() -> None:
    records = {
        patterns.name("MLP", "channel", 0.5, seed): record(error, speed, 30, 40)
        for seed, error, speed in ((0, 0.1, 2.0), (1, 0.2, 5.0), (2, 0.3, 3.0))
    }
    (found,) = patterns.points(records, "MLP")

    assert (found.label, found.sparsity, found.speed) == ("channel", 0.5, {1: 3.0, 32: 3.0})
    assert found.accuracy == pytest.approx(80.0)
    assert (found.bytes, found.slim_bytes) == (pytest.approx(0.3), pytest.approx(0.4))


def test_a_pattern_that_never_stands_on_the_front_of_latency_is_for_other_devices() -> None:
    records = {
        patterns.name("MLP", "dense", 0.0, 0): record(0.10, None, 90),
        patterns.name("MLP", "element", 0.9, 0): record(0.12, 1.5, 12),
        patterns.name("MLP", "channel", 0.7, 0): record(0.11, 3.0, 30, 35),
    }
    lines = patterns.verdict(records).splitlines()

    assert lines[0] == (
        "element: on the front of latency: never; it saves time only on other devices, or saves bytes; "
        "on that of bytes: MLP, bytes (90 %)"
    )
    assert "channel: on the front of latency: MLP, batch 1 (70 %); MLP, batch 32 (70 %); on that of bytes" in lines[1]
    assert len(lines) == 2
    assert "| dense | 0 % | 90.00 | 1.000 | **1x** | **1x** | **0.900** | - |" in patterns.table(records)
    assert "| element | 90 % | 88.00 | 1.000 | 1.50x | 1.50x | **0.120** | - |" in patterns.table(records)


def test_nothing_is_said_of_patterns_before_a_run_is_finished() -> None:
    assert patterns.verdict({}) == "no pattern is finished"


def test_all_patterns_of_a_network_train_under_the_same_settings() -> None:
    own = {"way", "pattern", "sparsity", "seed"}
    for net in patterns.NETS:
        settings = [run.settings for run in patterns.runs_of(short=False) if run.settings["net"] == net]
        shared = [{key: value for key, value in each.items() if key not in own} for each in settings]

        assert len(settings) == 3 * (5 * 5 + 2)
        assert all(each == shared[0] for each in shared)


def test_modules_held_out_are_never_trained_on() -> None:
    paths = [Path(f"module_{number}.py") for number in range(50)]
    train, held, test = patterns.split(paths)

    assert sorted([*train, *held, *test]) == sorted(paths)
    assert min(len(held), len(test)) > 0


def test_what_a_text_is_asked_for_is_its_next_byte() -> None:
    inputs, wanted = patterns.windows(bytes(range(100)), 3, length=7)

    assert inputs.shape == (3, 7)
    assert torch.equal(wanted, inputs + 1)
    assert inputs[-1, -1] == 97


def test_the_figure_has_a_panel_for_each_network_and_measure(tmp_path: Path) -> None:
    records = {
        patterns.name(net, label, sparsity, seed): record(
            0.1 + 0.1 * sparsity + 0.01 * seed, 2 + number if way.deploy else None, 90 - int(80 * sparsity)
        )
        for net in patterns.NETS
        for number, (label, way) in enumerate(patterns.WAYS.items())
        for sparsity in patterns.sparsities(way)
        for seed in patterns.SEEDS
    }
    patterns.draw(records, tmp_path / "figure.png")

    width, height = struct.unpack(">II", (tmp_path / "figure.png").read_bytes()[16:24])
    assert min(width, height) > 1000


def test_the_examples_in_the_docstrings_hold() -> None:
    tried = doctest.testmod(patterns)

    assert tried.attempted > 0
    assert tried.failed == 0
