"""The benchmark of waiting, on figures written out by hand and on two tiny interpreters."""

from __future__ import annotations

import waiting


def case(aim: float) -> waiting.Case:
    return waiting.Case("import json", "pass", aim, "nothing")


def test_an_aim_is_met_up_to_its_ratio():
    found = [waiting.judged(case(2.0), seconds, [1.0, 1.0, 1.0]) for seconds in ([1.9, 2.0, 2.1], [2.2, 2.1, 2.3])]
    assert [(row["ratio"]["median"], row["met"]) for row in found] == [(2.0, True), (2.2, False)]


def test_a_wait_is_the_time_of_a_process_of_its_own():
    found = waiting.measure({"json": case(1e9)}, rounds=1)
    assert found["json"]["met"]
    assert 0 < found["json"]["base"]["median"] < 60
