"""The image sets: order of the batches, splits, and files that are missing or damaged."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_dynprune.app.data import MNIST, Digits, FashionMNIST
from lightning_dynprune.app.data.batches import EpochOrder, TensorBatches
from lightning_dynprune.app.data.idx import parse_idx, read_idx

DATA = Path(os.environ.get("DYNPRUNE_DATA") or Path(__file__).parents[3] / ".." / "shared" / "data")
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 4, 3, 1, 4, 1])


def batches(count: int = 10, seed: int | None = 5) -> TensorBatches:
    return TensorBatches(torch.arange(float(count)), torch.arange(count), batch_size=3, seed=seed)


def labels(loader: TensorBatches) -> list[list[int]]:
    return [batch.tolist() for _, batch in loader]


def test_every_epoch_holds_every_sample_once_with_its_label_in_an_order_of_its_own():
    loader = batches()
    orders = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        served = list(loader)
        assert [len(chosen) for _, chosen in served] == [3, 3, 3, 1]
        assert all(torch.equal(images.long(), chosen) for images, chosen in served)
        orders.append(torch.cat([chosen for _, chosen in served]).tolist())
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(map(tuple, orders))) == 3


def test_the_order_depends_on_seed_and_epoch_alone():
    first = EpochOrder(50, seed=1)
    torch.manual_seed(0)
    before = first.indices().tolist()
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert EpochOrder(50, seed=1).indices().tolist() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert EpochOrder(50, seed=2).indices().tolist() != before


@pytest.mark.parametrize("served", [0, 1, 3])
def test_a_loader_goes_on_behind_the_batches_it_had_served_and_then_begins_anew(served):
    stopped, whole = batches(), labels(batches())
    running = iter(stopped)
    for _ in range(served):
        next(running)
    resumed = batches()
    resumed.load_state_dict(stopped.state_dict())
    assert labels(resumed) == whole[served:]
    assert labels(resumed) == whole


def test_a_loader_at_the_end_of_its_epoch_begins_the_next_from_its_first_batch():
    stopped = batches()
    for _ in stopped:
        pass
    assert stopped.state_dict() == {"batch": 0}


def digits(**changes) -> Digits:
    settings = {"shape": [1, 8, 8], "classes": 10, "batch_size": 32, "holdout": 237, "seed": 0, **changes}
    data = Digits(**settings)
    data.setup()
    return data


def test_digits_are_split_in_three_parts_that_share_no_image_and_do_not_depend_on_the_seed():
    parts, others = ([d.train, d.val, d.test] for d in (digits(seed=0), digits(seed=1)))
    assert [len(part.labels) for part in parts] == [1200, 237, 360]
    rows = [{image.numpy().tobytes() for image in part.images} for part in parts]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]
    assert all(torch.equal(a.images, b.images) for a, b in zip(parts, others, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [1, 28, 28]}, r"data.shape=\[1, 28, 28\] does not fit: the images are \[1, 8, 8\]"),
        ({"classes": 9}, "data.classes=9 is too few: a label is 9"),
        ({"holdout": 0}, "data.holdout=0 is not accepted; give 1 to 1436"),
        ({"batch_size": 0}, "data.batch_size=0 is not accepted; give 1 or more"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        digits(**changes)


def packed(path: Path, content: bytes = LABELS) -> str:
    path.write_bytes(gzip.compress(content))
    return hashlib.md5(content).hexdigest()


def test_an_idx_file_is_read_in_its_shape(tmp_path):
    assert read_idx(tmp_path / "a.gz", packed(tmp_path / "a.gz")).tolist() == [3, 1, 4, 1]
    image = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, *range(6)])
    assert np.array_equal(parse_idx(image), [[[0, 1, 2], [3, 4, 5]]])


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "no archive", "other content"])
def test_a_damaged_file_is_named_with_its_checksum_and_the_remedy(damage, tmp_path):
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    expected = packed(path)
    whole = path.read_bytes()
    if damage == "flipped bit":
        path.write_bytes(whole[:14] + bytes([whole[14] ^ 1]) + whole[15:])
    elif damage == "cut short":
        path.write_bytes(whole[:-6])
    elif damage == "no archive":
        path.write_bytes(b"<html>not found</html>")
    else:
        packed(path, LABELS[:-1] + b"\x09")
    with pytest.raises(ValueError, match="unset data_dir and DYNPRUNE_DATA") as refused:
        read_idx(path, expected)
    assert str(path) in str(refused.value)
    assert expected in str(refused.value)


def test_a_missing_file_is_named_with_its_checksum(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.gz is missing \(unzipped MD5 6bbc9ace"):
        MNIST([1, 28, 28], 10, 128, 5000, 0, data_dir=str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\x00\x00\x0d\x01\x00\x00\x00\x00", "starts with 00 00 0d 01"), (LABELS[:-1], r"shape \[4\] holds 3 values")],
)
def test_what_is_no_idx_file_of_bytes_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        parse_idx(content)


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_the_real_sets_are_read_standardised_and_split(kind, monkeypatch):
    if not (DATA / kind.folder).is_dir():
        pytest.skip(f"no {kind.folder} files; point DYNPRUNE_DATA at the folder that holds them")
    monkeypatch.setenv("DYNPRUNE_DATA", str(DATA))
    data = kind([1, 28, 28], 10, 128, 5000, 0)
    data.setup()
    assert [len(part.labels) for part in (data.train, data.val, data.test)] == [55_000, 5_000, 10_000]
    assert data.train.images.mean().abs() < 0.01
    assert (data.train.images.std() - 1).abs() < 0.01
    assert data.test.labels.bincount().tolist() == COUNTS[kind]


COUNTS = {MNIST: [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009], FashionMNIST: [1000] * 10}
