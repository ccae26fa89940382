"""Small pruned models: zeros among the weights, widths as slimming leaves them, and norms with a past."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_dynprune.app.models import ConvNet
from tests.networks import GPT, settled


def pruned(model: nn.Module, sparsity: float = 0.8) -> nn.Module:
    """Zero the smallest weights of each matrix, all of a row among them."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                cut = weight.abs().flatten().kthvalue(int(weight.numel() * sparsity)).values
                weight.mul_(weight.abs() > cut)
                weight[-1].zero_()
    return model


def mlp() -> tuple[nn.Module, Tensor]:
    return pruned(nn.Sequential(nn.Linear(20, 13), nn.ReLU(), nn.Linear(13, 7), nn.ReLU(), nn.Linear(7, 5))), (
        torch.randn(2, 20)
    )


def convnet() -> tuple[nn.Module, Tensor]:
    return pruned(settled(ConvNet((1, 10, 8), classes=10, width=7))), torch.randn(4, 1, 10, 8)


def gpt() -> tuple[nn.Module, Tensor]:
    model = GPT(vocabulary=31, width=24, heads=3, tied=True)
    for block, inner in zip(model.blocks, (37, 52), strict=True):
        block.feed_in, block.feed_out = nn.Linear(24, inner), nn.Linear(inner, 24)
    return pruned(settled(model), 0.5), torch.arange(20).view(2, 10) + 11


MODELS = {"mlp": mlp, "convnet": convnet, "gpt": gpt}


class TwoInTwoOut(nn.Module):
    """Takes floats and which of them count; gives scores and the best."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, values: Tensor, counts: Tensor) -> dict[str, Tensor]:
        scores = self.layer(torch.where(counts, values, 0.0))
        return {"scores": scores, "best": scores.argmax(-1)}


def made(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Return a model of :data:`MODELS` in training mode, with an example."""
    torch.manual_seed(seed)
    model, example = MODELS[name]()
    return model.train(), example
