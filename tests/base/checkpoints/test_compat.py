"""The names in a checkpoint that torch does not document are those that are accepted."""

from __future__ import annotations

import pickletools
import zipfile

import pytest
import torch
from torch import nn

from lightning_dynprune.base.checkpoints.compat import (
    FORMAT_FILES,
    ITEM_SIZES,
    ORDERED_DICT,
    PICKLE_FILE,
    REBUILD_PARAMETER,
    REBUILD_TENSOR,
    STORAGE_FOLDER,
)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.bool, torch.uint8, torch.int64])
def test_torch_rebuilds_tensors_by_the_names_that_are_accepted(tmp_path, kind):
    module = nn.Linear(2, 2)
    torch.save({"a": torch.zeros(3).to(kind), "state": module.state_dict(), "p": module.weight}, tmp_path / "x.ckpt")
    with zipfile.ZipFile(tmp_path / "x.ckpt") as archive:
        files = {entry.filename.partition("/")[2]: entry.file_size for entry in archive.infolist()}
        codes = list(pickletools.genops(archive.read(f"x/{PICKLE_FILE}")))
    names = {argument for code, argument, _ in codes if code.name == "GLOBAL"}
    (storage,) = names & (set(ITEM_SIZES) - {"torch FloatStorage"}) or {"torch FloatStorage"}
    assert files[f"{STORAGE_FOLDER}0"] == 3 * ITEM_SIZES[storage]
    assert {ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER} <= names
    assert names <= {ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, *ITEM_SIZES}
    assert all(name in FORMAT_FILES or name.startswith(STORAGE_FOLDER) for name in set(files) - {PICKLE_FILE})
