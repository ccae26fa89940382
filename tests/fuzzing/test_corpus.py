"""Every file of the corpus is read, or refused in words, in bounded memory and time; no fuzzer is needed for that."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from lightning_dynprune.app.data.idx import read_idx
from tests.fuzzing.bounds import TooSlow, bounded
from tests.fuzzing.harness import READERS, corpus, feed_at_random, reader

FILES = [pytest.param(name, path, id=f"{name}-{path.name}") for name in READERS for path in corpus(name)]


@pytest.mark.parametrize(("name", "path"), FILES)
@pytest.mark.filterwarnings("ignore")
def test_a_file_of_the_corpus_keeps_the_promise(name, path, tmp_path):
    module = reader(name)
    with bounded():
        module.read(path.read_bytes(), tmp_path)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_the_seeds_are_files_that_are_accepted_today(name, tmp_path):
    """Else nothing would be near to right any more, and the fuzzers would not come past the first check."""
    module = reader(name)
    for seed in module.seeds(tmp_path):
        data = next(path for path in corpus(name) if path.name == seed).read_bytes()
        assert module.read(data, tmp_path) or name == "state", seed


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_some_files_that_are_nearly_right_keep_the_promise(name, tmp_path):
    module = reader(name)

    def feed(data: bytes) -> None:
        with bounded():
            module.read(data, tmp_path)

    assert feed_at_random(name, feed, seconds=0.5, seed=5)


def test_the_bounds_stop_a_reader_that_takes_too_much_memory():
    with pytest.raises((MemoryError, RuntimeError)), bounded(memory=2**26):
        torch.ones(2**28, dtype=torch.uint8)


def test_the_bounds_stop_a_reader_that_takes_too_long():
    def compute_forever() -> None:
        while True:
            pass

    with pytest.raises(TooSlow), bounded(seconds=1):
        compute_forever()


def test_a_packed_file_that_unfolds_into_too_much_is_refused_before_it_does(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(2**27)))
    with bounded(), pytest.raises(ValueError, match=r"bomb.gz holds more than 50000000 bytes"):
        read_idx(path, "0" * 32)


def test_json_that_is_nested_without_end_is_refused(tmp_path):
    for name in ("choice", "results"):
        deep = b"0" * (name == "results") + b"[" * 100_000
        with bounded():
            reader(name).read(deep, tmp_path)
    for depth in range(800, 1000):
        row = {"kernel": "csr", "settings": {}, "shape": 0}
        head = {"format": "lightning-dynprune kernel choice", "version": 1, "layers": {"0": row}}
        text = json.dumps(head).replace('"shape": 0', '"shape": ' + "[" * depth + "]" * depth)
        with bounded():
            reader("choice").read(text.encode(), tmp_path)
