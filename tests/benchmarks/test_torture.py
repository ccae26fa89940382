"""A short torture run, killed in an update, in a checkpoint write and between, equals the uninterrupted run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torture
from torture import BETWEEN, CHECKPOINT, PLACES, UPDATE, Progress, moments

from tests.app.program import dynprune


def test_a_run_killed_again_and_again_ends_as_the_unbroken_one_to_the_bit(tmp_path):
    # A process of its own, for it forks.
    out = tmp_path / "torture.json"
    arguments = ("--kills", "6", "--epochs", "1", "--out", str(out))
    done = dynprune(*arguments, folder=tmp_path, program=Path(torture.__file__))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert sum(row["kills"] for row in found["places"].values()) == 6
    assert len(found["equal"]) == 13
    assert all(found["equal"].values())


def test_moments_are_shared_out_evenly_in_the_order_of_their_steps_and_the_same_for_the_same_seed():
    drawn = moments(50, 600, seed=0)
    assert drawn == moments(50, 600, seed=0) != moments(50, 600, seed=1)
    assert [sum(moment.place == place for moment in drawn) for place in PLACES] == [17, 17, 16]
    assert [moment.step for moment in drawn] == sorted(moment.step for moment in drawn)
    assert all(moment.step > 300 for moment in drawn if moment.place == UPDATE)


def test_the_last_line_says_where_a_process_was():
    progress = Progress()
    places = []
    for line in ("step|1|60", UPDATE, BETWEEN, "step|2|60", CHECKPOINT):
        progress.read(line)
        places.append(progress.place)
    assert places == [BETWEEN, UPDATE, BETWEEN, BETWEEN, CHECKPOINT]
    assert (progress.step, progress.steps) == (2, 60)


def test_a_half_written_file_that_bears_its_final_name_is_found(tmp_path):
    for name, content in {"results.json": b'{"a": ', "last.ckpt": b"PK\x03\x04", "model.safetensors": b"\x09"}.items():
        (tmp_path / name).write_bytes(content)
        try:
            torture.half_written(tmp_path)
        except Exception:
            (tmp_path / name).unlink()
        else:
            raise AssertionError(f"{name} was taken for whole")


def test_results_that_differ_are_not_equal():
    assert torture.equal({"a": [1, (2, None)]}, {"a": [1, (2, None)]})
    assert not torture.equal({"a": [1, (2, None)]}, {"a": [1, (2, 3)]})
    assert not torture.equal({"a": torch.tensor([1.0])}, {"a": torch.tensor([2.0])})
    assert not torture.equal({"a": 1}, {"b": 1})
