"""Files of weights for ``task=deploy``: plain, compact and slim safetensors, into a network that they may fit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lightning_dynprune.app.runs import load_weights
from lightning_dynprune.deploy.compact import save_compact, write_dense
from lightning_dynprune.deploy.slimming import save

ACCEPTED = (ValueError,)


def network(width: int = 6) -> nn.Module:
    """Return a network with channels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))


def seeds(folder: Path) -> dict[str, bytes]:
    """Return files as they should be."""
    path = folder / "weights.safetensors"
    sparse = {name: torch.zeros_like(value) for name, value in network().state_dict().items()}
    written = {}
    for name, write in {
        "plain": lambda: write_dense(network().state_dict(), path),
        "compact": lambda: save_compact(sparse, path),
        "slim": lambda: save(network(3), path),
    }.items():
        write()
        written[name] = path.read_bytes()
    return written


def read(data: bytes, folder: Path) -> bool:
    """Load the bytes."""
    path = folder / "weights.safetensors"
    path.write_bytes(data)
    try:
        load_weights(network(), path)
    except ACCEPTED:
        return False
    return True
