"""Files of slim models: ``load``, into a model that they may or may not fit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lightning_dynprune.deploy.slimming import load, save

ACCEPTED = (ValueError,)


def network(width: int = 6, heads: int = 2) -> nn.Module:
    """Return a network with channels, norms without tensors and heads."""
    convolutions = [nn.Conv1d(2, width, 1), nn.InstanceNorm1d(width), nn.BatchNorm1d(width), nn.Conv1d(width, 8, 1)]
    return nn.ModuleDict({"c": nn.Sequential(*convolutions), "a": nn.MultiheadAttention(4, heads)})


def seeds(folder: Path) -> dict[str, bytes]:
    """Return files as they should be."""
    written = {}
    for width in (6, 3):
        torch.manual_seed(0)
        save(network(width), folder / "slim")
        written[f"width_{width}"] = (folder / "slim").read_bytes()
    return written


def read(data: bytes, folder: Path) -> bool:
    """Load the bytes; where they are refused the model is as it was."""
    path = folder / "slim.safetensors"
    path.write_bytes(data)
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        load(model, path)
    except ACCEPTED:
        after = model.state_dict()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        return False
    return True
