"""MNIST and Fashion-MNIST, read from a given folder or downloaded once, with their checksums checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import pooch
import torch

from lightning_dynprune.app.data.idx import read_idx
from lightning_dynprune.app.data.images import InMemoryImages, Samples

DATA_FOLDER = "DYNPRUNE_DATA"


class SetFile(NamedTuple):
    """MD5 checksums of one file: of the archive on the mirror, and of its content."""

    archive: str
    content: str


class MNIST(InMemoryImages):
    """60,000 training and 10,000 test images of handwritten digits, 28x28.

    Args:
        shape: see ``InMemoryImages``.
        classes: see ``InMemoryImages``.
        batch_size: see ``InMemoryImages``.
        holdout: see ``InMemoryImages``.
        seed: see ``InMemoryImages``.
        data_dir: folder that contains a folder ``mnist`` with the four ``.gz`` files. None takes the environment
            variable ``DYNPRUNE_DATA``; if that is unset too, the files are downloaded into pooch's cache.

    Raises:
        FileNotFoundError: ``data_dir`` is given and lacks a file.
        ValueError: a file is damaged.

    Source: LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist.
    """

    folder: ClassVar[str] = "mnist"
    mirror: ClassVar[str] = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    mean: ClassVar[float] = 0.1307
    std: ClassVar[float] = 0.3081
    files: ClassVar[Mapping[str, SetFile]] = {
        "train-images-idx3-ubyte": SetFile("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
        "train-labels-idx1-ubyte": SetFile("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
        "t10k-images-idx3-ubyte": SetFile("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
        "t10k-labels-idx1-ubyte": SetFile("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
    }

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        batch_size: int,
        holdout: int,
        seed: int,
        data_dir: str | None = None,
    ) -> None:
        super().__init__(shape, classes, batch_size, holdout, seed)
        self.data_dir = data_dir or os.environ.get(DATA_FOLDER) or None

    def read(self) -> tuple[Samples, Samples]:
        """Return the training and test samples, standardized by the usual mean and standard deviation of the set."""
        return self._samples("train"), self._samples("t10k")

    def _samples(self, part: str) -> Samples:
        images = self._tensor(f"{part}-images-idx3-ubyte").unsqueeze(1).float()
        labels = self._tensor(f"{part}-labels-idx1-ubyte").long()
        return Samples(images.div_(255).sub_(self.mean).div_(self.std), labels)

    def _tensor(self, name: str) -> torch.Tensor:
        path = self._downloaded(name) if self.data_dir is None else self._given(name)
        return torch.from_numpy(read_idx(path, self.files[name].content).copy())

    def _given(self, name: str) -> Path:
        assert self.data_dir is not None
        return Path(self.data_dir).expanduser() / self.folder / f"{name}.gz"

    def _downloaded(self, name: str) -> Path:
        from rich.progress import Progress

        archive = f"{name}.gz"
        with Progress(transient=True) as progress:
            path: str = pooch.retrieve(
                url=self.mirror + archive,
                known_hash=f"md5:{self.files[name].archive}",
                fname=archive,
                path=pooch.os_cache("lightning-dynprune") / self.folder,
                downloader=pooch.HTTPDownloader(progressbar=_ProgressBar(progress, f"{self.folder}/{archive}")),
            )
        return Path(path)


class _ProgressBar:
    """The interface of a progress bar that pooch expects, drawn by rich."""

    def __init__(self, progress: object, label: str) -> None:
        from rich.progress import Progress

        assert isinstance(progress, Progress)
        self._progress = progress
        self._task = progress.add_task(label, total=None)

    @property
    def total(self) -> float | None:
        return self._progress.tasks[self._task].total

    @total.setter
    def total(self, size: float) -> None:
        self._progress.update(self._task, total=size)

    def update(self, received: float) -> None:
        self._progress.update(self._task, advance=received)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.refresh()


class FashionMNIST(MNIST):
    """60,000 training and 10,000 test images of clothes, 28x28, in MNIST's format; folder ``fashion-mnist``.

    Source: Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747.
    """

    folder: ClassVar[str] = "fashion-mnist"
    mirror: ClassVar[str] = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    mean: ClassVar[float] = 0.2860
    std: ClassVar[float] = 0.3530
    files: ClassVar[Mapping[str, SetFile]] = {
        "train-images-idx3-ubyte": SetFile("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        "train-labels-idx1-ubyte": SetFile("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
        "t10k-images-idx3-ubyte": SetFile("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
        "t10k-labels-idx1-ubyte": SetFile("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
    }
