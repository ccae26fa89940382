"""Families of convolutional networks as their authors define them, in plain torch; the widths are settings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1, act: nn.Module | None = None):
    """Return a convolution with batch norm and activation (ReLU6 unless given)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True) if act is None else act,
    )


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        layers = [conv(inputs, inner, 1)] if expand > 1 else []
        layers += [conv(inner, inner, 3, stride, groups=inner), conv(inner, outputs, 1, act=nn.Identity())]
        self.layers, self.has_skip = nn.Sequential(*layers), stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.has_skip else self.layers(x)


MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """Sandler et al. (2018); by default the network for ImageNet, of 3.5 M parameters."""

    def __init__(
        self,
        stages: Sequence[tuple[int, int, int, int]] = MOBILENET_V2,
        stem: int = 32,
        last: int = 1280,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, stem, 3, 2)]
        inputs = stem
        for expand, outputs, repeats, stride in stages:
            for position in range(repeats):
                layers.append(InvertedResidual(inputs, outputs, 1 if position else stride, expand))
                inputs = outputs
        self.features = nn.Sequential(*layers, conv(inputs, last, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(batch, -1, height, width)


class ShuffleUnit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half, self.stride = outputs // 2, stride
        self.short = nn.Sequential()
        if stride > 1:
            down = conv(inputs, inputs, 3, stride, inputs, act=nn.Identity())
            self.short = nn.Sequential(*down, *conv(inputs, half, 1, act=nn.ReLU(inplace=True)))
        self.long = nn.Sequential(
            *conv(inputs if stride > 1 else half, half, 1, act=nn.ReLU(inplace=True)),
            *conv(half, half, 3, stride, half, act=nn.Identity()),
            *conv(half, half, 1, act=nn.ReLU(inplace=True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            kept, changed = x.chunk(2, dim=1)
            return channel_shuffle(torch.cat((kept, self.long(changed)), dim=1), 2)
        return channel_shuffle(torch.cat((self.short(x), self.long(x)), dim=1), 2)


class ShuffleNetV2(nn.Module):
    """Ma et al. (2018); by default the network of width 1.0 for ImageNet, of 2.3 M parameters."""

    def __init__(
        self,
        widths: Sequence[int] = (24, 116, 232, 464, 1024),
        repeats: Sequence[int] = (4, 8, 4),
        classes: int = 1000,
    ) -> None:
        super().__init__()
        stem, *stages, last = widths
        self.stem = nn.Sequential(conv(3, stem, 3, 2, act=nn.ReLU(inplace=True)), nn.MaxPool2d(3, 2, 1))
        units = []
        inputs = stem
        for outputs, count in zip(stages, repeats, strict=True):
            units += [ShuffleUnit(inputs, outputs, 2), *[ShuffleUnit(outputs, outputs, 1) for _ in range(count - 1)]]
            inputs = outputs
        self.stages, self.last = nn.Sequential(*units), conv(inputs, last, 1, act=nn.ReLU(inplace=True))
        self.fc = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.stages(self.stem(x))).mean([2, 3]))


class ResNeXtBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, inner: int, groups: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(inputs, inner, 1, act=nn.ReLU(inplace=True)),
            conv(inner, inner, 3, stride, groups, act=nn.ReLU(inplace=True)),
            conv(inner, outputs, 1, act=nn.Identity()),
        )
        self.skip = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.skip = conv(inputs, outputs, 1, stride, act=nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layers(x) + self.skip(x))


class ResNeXt(nn.Module):
    """Xie et al. (2017); by default ResNeXt-50 (32 groups of 4 channels)."""

    def __init__(
        self,
        repeats: Sequence[int] = (3, 4, 6, 3),
        stem: int = 64,
        groups: int = 32,
        size: int = 4,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, stem, 7, 2, act=nn.ReLU(inplace=True)), nn.MaxPool2d(3, 2, 1))
        blocks, inputs = [], stem
        for stage, count in enumerate(repeats):
            inner, outputs = groups * size << stage, 4 * stem << stage
            for position in range(count):
                stride = 2 if stage and not position else 1
                blocks.append(ResNeXtBlock(inputs, outputs, inner, groups, stride))
                inputs = outputs
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        *conv(inputs, outputs, act=nn.ReLU(inplace=True)), *conv(outputs, outputs, act=nn.ReLU(inplace=True))
    )


class UNet(nn.Module):
    """Ronneberger et al. (2015), padded; by default of 31 M parameters."""

    def __init__(self, width: int = 64, depth: int = 4, channels: int = 3, classes: int = 2) -> None:
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.first = double_conv(channels, width)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), double_conv(a, b)) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs))
        self.merge = nn.ModuleList(double_conv(b, a) for a, b in reversed(pairs))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.first(x)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([levels.pop(), up(x)], dim=1))
        return self.last(x)


class Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(width, width, act=nn.SiLU()), conv(width, width, act=nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))


class C2f(nn.Module):
    """Splits its channels in two, runs one half through bottlenecks, and concatenates all that arises."""

    def __init__(self, inputs: int, outputs: int, count: int) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = conv(inputs, 2 * half, 1, act=nn.SiLU())
        self.cv2 = conv((2 + count) * half, outputs, 1, act=nn.SiLU())
        self.m = nn.ModuleList(Bottleneck(half) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for bottleneck in self.m:
            parts.append(bottleneck(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SPPF(nn.Module):
    """Concatenates the results of repeated max pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(width, width // 2, 1, act=nn.SiLU()), conv(2 * width, width, 1, act=nn.SiLU())
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SplitNet(nn.Module):
    """A detector's backbone and neck after YOLOv8: split-and-concatenate blocks, pyramid pooling, a top-down path."""

    def __init__(self, width: int = 16, outputs: int = 12) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(conv(3, w, 3, 2, act=nn.SiLU()), conv(w, 2 * w, 3, 2, act=nn.SiLU()))
        self.high = C2f(2 * w, 2 * w, 2)
        self.low = nn.Sequential(conv(2 * w, 4 * w, 3, 2, act=nn.SiLU()), C2f(4 * w, 4 * w, 1), SPPF(4 * w))
        self.up, self.merge = nn.Upsample(scale_factor=2), C2f(6 * w, 2 * w, 1)
        self.heads = nn.ModuleList([nn.Conv2d(2 * w, outputs, 1), nn.Conv2d(4 * w, outputs, 1)])

    def forward(self, x: Tensor) -> list[Tensor]:
        high = self.high(self.stem(x))
        low = self.low(high)
        merged = self.merge(torch.cat([self.up(low), high], 1))
        return [head(part) for head, part in zip(self.heads, (merged, low), strict=True)]
