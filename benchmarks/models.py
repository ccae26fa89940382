"""Networks of the benchmarks: plain torch modules, and a LightningModule that trains them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def one_scale(network: nn.Module) -> nn.Module:
    """Initialize all matrices of a network with the same scale.

    With torch's default, global pruning of an untrained network removes whole layers, and the zero gradients behind a
    dead layer slow down every step of every contender.
    """
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
    return network


def lenet_300_100() -> nn.Module:
    """Return LeNet-300-100: 266,200 connections in three layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def wide_mlp(width: int = 4096, depth: int = 3) -> nn.Module:
    """Return an MLP of ``depth`` square layers, by default with 50 M connections to make RSS noise small."""
    return nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())])


def mlp() -> nn.Module:
    """Return an MLP of 784-512-256-10 units: 535,040 connections, whose hidden widths divide by 32."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)
    )


class Block(nn.Module):
    """One transformer block: causal attention, then a feed-forward of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_in, self.feed_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, width) to the same shape."""
        heads = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.feed_out(F.gelu(self.feed_in(self.norm_2(x))))


class GPT(nn.Module):
    """A small GPT, by default with 10.7 M parameters, 10.6 M of them connections."""

    def __init__(self, vocabulary: int = 65, width: int = 384, depth: int = 6, heads: int = 6) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(256, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (batch, time) to logits (batch, vocabulary, time)."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x))).transpose(1, 2)


class Residual(nn.Module):
    """Two convolutions with batch norms around a skip connection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_1, self.norm_1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv_2, self.norm_2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.skip = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        y = F.relu(self.norm_1(self.conv_1(x)))
        return F.relu(self.norm_2(self.conv_2(y)) + self.skip(x))


def resnet_18(classes: int = 10) -> nn.Module:
    """Return ResNet-18 for images of 32 x 32: 11.2 M parameters; the first convolution has stride 1, and no pooling."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inputs = 64
    for outputs in (64, 128, 256, 512):
        layers += [Residual(inputs, outputs, 1 if outputs == 64 else 2), Residual(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


@dataclass(frozen=True)
class Workload:
    """A network with its optimizer and one batch in memory."""

    network: Callable[[], nn.Module]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    batch: Callable[[], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy


WORKLOADS = {
    "LeNet-300-100, Adam, batch 128": Workload(
        lambda: one_scale(lenet_300_100()),
        lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        lambda: (torch.randn(128, 1, 28, 28), torch.randint(10, (128,))),
    ),
    "GPT 10.7 M, AdamW, 4 x 128 tokens": Workload(
        lambda: one_scale(GPT()),
        lambda parameters: torch.optim.AdamW(parameters, lr=3e-4),
        lambda: (torch.randint(65, (4, 128)), torch.randint(65, (4, 128))),
    ),
    "MLP 50 M, SGD, batch 8": Workload(
        lambda: one_scale(wide_mlp()),
        lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
        lambda: (torch.randn(8, 4096), torch.randn(8, 4096)),
        F.mse_loss,
    ),
}


class Plain(L.LightningModule):
    """LightningModule that trains and logs nothing, so that the measured overhead is only that of pruning."""

    def __init__(self, network: nn.Module, workload: Workload, batches: Callable[[], Iterator[Any]]) -> None:
        super().__init__()
        self.network, self.workload, self.batches = network, workload, batches

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        inputs, wanted = batch
        return self.workload.loss(self.network(inputs), wanted)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the workload's optimizer over the network's current parameters."""
        return self.workload.optimizer(self.parameters())

    def train_dataloader(self) -> Any:
        """Return an iterable that restarts ``batches`` each epoch."""
        return _Epochs(self.batches)


class _Epochs:
    def __init__(self, batches: Callable[[], Iterator[Any]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self.batches()
