"""Checkpoints of the program: what ``resume`` and ``task=deploy`` take from them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch
from torch import nn

from lightning_dynprune.app.runs import (
    ResumeError,
    expand_checkpoint,
    expand_resume,
    load_weights,
    read_run,
    validate_same_settings,
)

ACCEPTED = (ValueError,)
PICKLE = "archive/data.pkl"


def seeds(folder: Path) -> dict[str, bytes]:
    """Return files as they should be: whole, and their pickle alone behind a byte that is no archive's first."""
    run = {"overrides": ["sparsity=0.5", "seed=1"], "config_dirs": [], "config": '{"seed": 1}'}
    weights = {f"network.{name}": value for name, value in nn.Linear(2, 1).state_dict().items()}
    file = io.BytesIO()
    torch.save({"callbacks": {"LastCheckpoint": run}, "state_dict": weights}, file)
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        text = archive.read(name)
    return {"whole": file.getvalue(), "pickle": b"\0" + text}


def read(data: bytes, folder: Path) -> bool:
    """Resume from the bytes, and load their weights."""
    path = folder / "last.ckpt"
    path.write_bytes(data if data[:1] == b"P" else _archive(data[1:]))
    network, accepted = nn.Linear(2, 1), 0
    for use in (
        lambda: expand_resume([f"resume={path}"]),
        lambda: expand_checkpoint(["task=deploy", f"checkpoint={path}"]),
        lambda: validate_same_settings(read_run(path), {"seed": 1}, {"seed": 1}),
        lambda: load_weights(network, path),
    ):
        try:
            use()
            accepted += 1
        except (*ACCEPTED, ResumeError) as error:
            if "allocate" in str(error):  # what the memory's bound stopped
                raise MemoryError(str(error)) from error
    return accepted == 4


def _archive(text: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(PICKLE, text)
        archive.writestr("archive/byteorder", b"little")
        for number, size in enumerate((8, 4)):
            archive.writestr(f"archive/data/{number}", bytes(size))
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()
