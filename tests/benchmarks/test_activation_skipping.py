"""The aims of the benchmark of skipped inputs are judged on the widest network."""

from __future__ import annotations

import activation_skipping


def record(width: int, to_int8: float, zeros: float, accuracy: float) -> dict:
    forms = {"torch int8": {"to_int8": {"median": 1.0}}, "ours float32, zeros alone": {"to_int8": {"median": 9.0}}}
    forms["ours int8, zeros alone"] = {"to_int8": {"median": to_int8}}
    return {
        "width": width,
        "forms": forms,
        "test_accuracy": {"trained": 0.97, "fine-tuned": accuracy},
        "zeros": {"fine-tuned": {"0": 0.1, "2": 0.9, "4": zeros}},
    }


def test_aims_are_met_by_the_widest_network_in_8_bits_and_its_hidden_layers() -> None:
    narrow = record(1024, 5.0, 0.99, 0.99)
    found = activation_skipping.aims([record(4096, 2.5, 0.8, 0.965), narrow])
    assert [(aim["met"], round(aim["reached"], 3)) for aim in found] == [(True, 2.5), (True, 0.8), (True, 0.005)]
    found = activation_skipping.aims([narrow, record(4096, 1.9, 0.7, 0.95)])
    assert [(aim["met"], round(aim["reached"], 3)) for aim in found] == [(False, 1.9), (False, 0.7), (False, 0.02)]
