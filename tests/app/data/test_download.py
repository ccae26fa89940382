"""Where no folder is given, the sets are fetched once by pooch; no test here reaches for a network."""

from __future__ import annotations

import gzip
import hashlib

import pooch
import pytest

from lightning_dynprune.app.data import MNIST, FashionMNIST
from lightning_dynprune.app.data.mnist import SetFile


def idx(shape: list[int], values: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape) + values


CONTENT = {
    "train-images-idx3-ubyte": idx([3, 28, 28], bytes(784) + bytes([255]) * 1568),
    "train-labels-idx1-ubyte": idx([3], bytes([0, 9, 9])),
    "t10k-images-idx3-ubyte": idx([2, 28, 28], bytes(1568)),
    "t10k-labels-idx1-ubyte": idx([2], bytes([1, 2])),
}


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Serve small files in the place of the real ones; return the downloads asked for."""
    asked = []
    monkeypatch.delenv("DYNPRUNE_DATA", raising=False)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in CONTENT.items()}
    small = {name: SetFile(MNIST.files[name].archive, sums[name]) for name in CONTENT}
    monkeypatch.setattr(MNIST, "files", small)

    def retrieve(url, known_hash, fname, path, downloader):
        asked.append((url, known_hash, fname, path))
        bar = downloader.progressbar
        bar.total = 10
        bar.update(4)
        assert bar.total == 10
        bar.reset()
        bar.update(10)
        bar.close()
        (tmp_path / fname).write_bytes(gzip.compress(CONTENT[fname.removesuffix(".gz")]))
        return str(tmp_path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    return asked


def test_all_four_files_are_fetched_by_checksum_and_read(mirror):
    data = MNIST([1, 28, 28], 10, batch_size=2, holdout=1, seed=0)
    data.setup()
    assert [fname for _, _, fname, _ in mirror] == [f"{name}.gz" for name in CONTENT]
    assert all(url == MNIST.mirror + fname for url, _, fname, _ in mirror)
    assert mirror[0][1] == "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"
    assert all(path.parts[-2:] == ("lightning-dynprune", "mnist") for *_, path in mirror)
    values = {float(data.train.images.max()), float(data.val.images.max())} | {float(data.test.images.min())}
    assert max(values) == pytest.approx((1 - 0.1307) / 0.3081)
    assert min(values) == pytest.approx(-0.1307 / 0.3081)
    assert data.test.labels.tolist() == [1, 2]


def test_what_a_mirror_serves_instead_is_found_out_by_the_content(mirror, monkeypatch):
    monkeypatch.setitem(CONTENT, "t10k-labels-idx1-ubyte", idx([2], bytes([1, 3])))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz is corrupt: unzipped MD5"):
        MNIST([1, 28, 28], 10, batch_size=2, holdout=1, seed=0).setup()


def test_a_folder_that_is_given_is_read_and_nothing_is_fetched(mirror, tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    for name, content in CONTENT.items():
        (tmp_path / "mnist" / f"{name}.gz").write_bytes(gzip.compress(content))
    MNIST([1, 28, 28], 10, batch_size=2, holdout=1, seed=0, data_dir=str(tmp_path)).setup()
    monkeypatch.setenv("DYNPRUNE_DATA", str(tmp_path))
    MNIST([1, 28, 28], 10, batch_size=2, holdout=1, seed=0).setup()
    assert mirror == []


def test_the_two_sets_have_folders_mirrors_and_checksums_of_their_own():
    assert MNIST.folder != FashionMNIST.folder
    assert MNIST.mirror != FashionMNIST.mirror
    assert MNIST.files.keys() == FashionMNIST.files.keys()
    sums = [digest for kind in (MNIST, FashionMNIST) for file in kind.files.values() for digest in file]
    assert len(set(sums)) == 16
    assert all(len(digest) == 32 for digest in sums)
