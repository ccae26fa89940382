"""A file is there whole or not at all."""

from __future__ import annotations

import json

import pytest

from lightning_dynprune.base import write_atomically, write_json


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"accuracy": 0.5})

    def half(scratch):
        scratch.write_text("{")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, half)
    assert json.loads(path.read_text()) == {"accuracy": 0.5}
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(scratch):
        scratch.write_text("new")
        assert path.read_text() == "old"

    write_atomically(path, write)
    assert path.read_text() == "new"


def test_not_a_number_is_refused_rather_than_written_as_no_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "results.json", {"accuracy": float("nan")})
    assert not list(tmp_path.iterdir())
