"""Tiny convolutional networks in plain torch, after their authors' definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.convnets import MobileNetV2, ResNeXt, ShuffleNetV2, SplitNet, UNet
from tests.families.family import Family


def family(name: str, network: Callable[[], nn.Module], note: str = "", sparsity: float = 0.3) -> Family:
    """Return a family of networks that see one small batch of random images."""
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def build() -> nn.Module:
        torch.manual_seed(0)
        return network()

    return Family(name, build, {"x": images}, _loss, sparsity={"channel": sparsity}, note=note)


def _loss(outputs: Any, _: Mapping[str, Tensor]) -> Tensor:
    """Return a loss that every output of a network has a part in."""
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    return sum((F.mse_loss(output, torch.ones_like(output)) for output in outputs), start=torch.zeros(()))


FAMILIES = [
    family("MobileNetV2", lambda: MobileNetV2(((1, 8, 1, 1), (6, 12, 2, 2), (6, 16, 2, 2)), 8, 24, 5)),
    family(
        "ShuffleNetV2",
        lambda: ShuffleNetV2((8, 16, 32, 24), (2, 2), 5),
        "channels that a shuffle ties go together; where half a width is odd, only those inside the units go",
    ),
    family("ResNeXt", lambda: ResNeXt((1, 2), 8, 4, 2, 5), "whole groups of a grouped convolution"),
    family("U-Net", lambda: UNet(8, 2)),
    family(
        "YOLOv8's split-and-concatenate blocks",
        lambda: SplitNet(8),
        "`chunk` ties the halves; `split` into fixed widths keeps them",
    ),
]
