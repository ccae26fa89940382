"""Small networks with every kind of coupling that channels have."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions with batch norms around a skip connection; the stem's channels are the sum's."""

    def __init__(self, inner: int, outer: int, stride: int = 1, inputs: int | None = None) -> None:
        super().__init__()
        inputs = inputs or outer
        self.conv_1, self.norm_1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv_2, self.norm_2 = nn.Conv2d(inner, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.skip = nn.Sequential()
        if stride > 1 or inputs != outer:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm_1(self.conv_1(x)), inplace=True)
        return F.relu(self.norm_2(self.conv_2(y)) + self.skip(x))


def residual() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(stem, Residual(6, 8), Residual(5, 8), head)


def resnet_18(width: int = 64, classes: int = 10) -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    stages, inputs = [], width
    for stage in range(4):
        outputs = width << stage
        stages += [Residual(outputs, outputs, 1 + (stage > 0), inputs), Residual(outputs, outputs)]
        inputs = outputs
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    return nn.Sequential(stem, *stages, head)


class Inverted(nn.Module):
    """An inverted residual with squeeze and excitation, as in MobileNet and EfficientNet."""

    def __init__(self, width: int = 6, inner: int = 12, squeezed: int = 3) -> None:
        super().__init__()
        self.expand, self.norm_1 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.norm_2 = nn.BatchNorm2d(inner)
        self.reduce, self.excite = nn.Conv2d(inner, squeezed, 1), nn.Conv2d(squeezed, inner, 1)
        self.project, self.norm_3 = nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.norm_2(self.depthwise(F.silu(self.norm_1(self.expand(x))))))
        y = y * torch.sigmoid(self.excite(F.silu(self.reduce(y.mean((2, 3), keepdim=True)))))
        return x + self.norm_3(self.project(y))


def mobile() -> nn.Module:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), Inverted(), Inverted(), head)


class Concat(nn.Module):
    """Two branches side by side, a norm over both, and readers that see them at offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
        self.norm, self.read = nn.BatchNorm2d(9), nn.Conv2d(9, 6, 1)
        self.up, self.head = nn.ConvTranspose2d(6, 4, 2), nn.Linear(4 + 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(torch.cat([self.left(x), self.right(x)], dim=1)))
        z = F.gelu(self.up(self.read(y)))
        return self.head(torch.cat([z.mean((2, 3)), y.mean((2, 3))], dim=-1))


def flattened() -> nn.Module:
    convolutions = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(6 * 4, 8), nn.Tanh(), nn.Linear(8, 3))


def waves() -> nn.Module:
    convolutions = [nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.PReLU(4), nn.Conv1d(4, 5, 3), nn.InstanceNorm1d(5)]
    return nn.Sequential(*convolutions, nn.GELU(), nn.Flatten(), nn.Linear(5 * 6, 3))


class Block(nn.Module):
    """A causal transformer block; the head size stays what it is when heads go."""

    def __init__(self, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_in, self.feed_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.feed_out(F.gelu(self.feed_in(self.norm_2(x))))


class GPT(nn.Module):
    def __init__(
        self, vocabulary: int = 11, width: int = 24, depth: int = 2, heads: int = 3, tied: bool = False
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(16, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


NETWORKS = {
    "residual": (residual, lambda: torch.randn(3, 3, 8, 8)),
    "resnet_18": (lambda: resnet_18(8), lambda: torch.randn(2, 3, 16, 16)),
    "mobile": (mobile, lambda: torch.randn(2, 3, 12, 12)),
    "concat": (Concat, lambda: torch.randn(2, 3, 6, 6)),
    "flattened": (flattened, lambda: torch.randn(2, 1, 10, 10)),
    "waves": (waves, lambda: torch.randn(2, 2, 10)),
    "gpt": (GPT, lambda: torch.randint(11, (2, 7))),
    "gpt, tied": (lambda: GPT(tied=True), lambda: torch.randint(11, (2, 7))),
}


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """Return a network whose norms have scales, shifts and running values of a trained one."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if "norm" in name or "running" in name or tensor.dim() == 1:
            tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network.eval()
