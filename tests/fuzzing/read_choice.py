"""Choices of kernels, as JSON: ``apply_choice``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lightning_dynprune.deploy.kernels import LayerChoice
from lightning_dynprune.deploy.kernels.layer_choice import apply_choice, write_choice

ACCEPTED = (ValueError,)


def network() -> nn.Module:
    """Return a network of which every kernel suits one layer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 10), nn.Linear(10, 4))
    with torch.no_grad():
        model[0].weight[:, 3:] = 0
        model[2].weight[:, 30:] = 0
        model[3].weight[:, ::2] = 0
    return model


MODEL = network()
OUTPUT = MODEL(torch.ones(2, 12)).detach()


def seeds(folder: Path) -> dict[str, bytes]:
    """Return files as they should be."""
    rows = {
        "block": [("block", {"height": 32}), ("csr", {}), ("slim", {})],
        "dense": [("dense", {}), ("block_batched", {"height": 8}), ("dense", {})],
    }
    shapes = {"0": (64, 12), "2": (10, 64), "3": (4, 10)}
    written = {}
    for name, kernels in rows.items():
        layers = [LayerChoice(n, s, *k) for (n, s), k in zip(shapes.items(), kernels, strict=True)]
        write_choice(folder / "choice.json", layers)
        written[name] = (folder / "choice.json").read_bytes()
    return written


def read(data: bytes, folder: Path) -> bool:
    """Apply the bytes; a model that comes of it computes the same."""
    path = folder / "choice.json"
    path.write_bytes(data)
    try:
        model = apply_choice(MODEL, path)
    except ACCEPTED:
        return False
    torch.testing.assert_close(model(torch.ones(2, 12)), OUTPUT)
    return True
