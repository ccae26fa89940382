"""Train networks on Fashion-MNIST for the benchmarks, one epoch after the other, each kept so that a stop loses little.

``python benchmarks/fashion.py --folder FOLDER`` trains the ConvNet and the one of half its width.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_dynprune.app.data import FashionMNIST

CLASSES = 10
WIDTHS = (64, 64, 128, 128)
STRIDES = (2, 2, 1, 1)


def convnet(widths: Sequence[int] = WIDTHS) -> nn.Sequential:
    """Return four 3x3 convolutions, each with batch norm and ReLU, then global pooling and one linear layer.

    At the default widths one image of 28 x 28 takes 12.8 million multiply-adds.
    """
    layers, inputs = nn.Sequential(), 1
    for number, (outputs, stride) in enumerate(zip(widths, STRIDES, strict=True), 1):
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        block = nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
        layers.add_module(f"block{number}", block)
        inputs = outputs
    layers.add_module("pool", nn.AdaptiveAvgPool2d(1))
    layers.add_module("flatten", nn.Flatten())
    layers.add_module("fc", nn.Linear(inputs, CLASSES))
    return layers


def half_width(widths: Sequence[int] = WIDTHS) -> tuple[int, ...]:
    """Return half of each width."""
    return tuple(width // 2 for width in widths)


def fashion(data_dir: str | None, batch_size: int = 128, seed: int = 0) -> FashionMNIST:
    """Return Fashion-MNIST, read, with 5,000 of the training images held out."""
    shape = (1, 28, 28)
    data = FashionMNIST(shape=shape, classes=CLASSES, batch_size=batch_size, holdout=5000, seed=seed, data_dir=data_dir)
    data.setup()
    return data


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images, each mirrored or not and moved by up to two pixels."""
    count, _, height, width = images.shape
    mirrored = torch.rand(count, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    padded = F.pad(images, (2, 2, 2, 2), value=float(images.min()))
    rows = torch.randint(5, (count, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(5, (count, 1), generator=generator) + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def augmented_batches(images: Tensor, labels: Tensor, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of shuffled batches of augmented images."""
    generator = torch.Generator().manual_seed(seed)
    for chosen in torch.randperm(len(labels), generator=generator).split(size):
        yield augmented(images[chosen], generator), labels[chosen]


def plain_batches(images: Tensor, labels: Tensor, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of shuffled batches of the images as they are."""
    for chosen in torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).split(size):
        yield images[chosen], labels[chosen]


def train(
    network: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int, path: Path, augment: bool = True
) -> nn.Module:
    """Train a network in place by SGD with a cosine learning rate; continue from ``path`` if it exists.

    Args:
        network: untrained, or of an earlier call.
        images: of the training set.
        labels: their classes.
        epochs: number of epochs.
        seed: of the batches.
        path: file of weights and progress, rewritten after each epoch.
        augment: whether images are mirrored and moved, which takes more epochs and ends higher.
    """
    network.to(memory_format=torch.channels_last).train()
    decayed = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    rest = [parameter for parameter in network.parameters() if parameter.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    steps, size, step, start = epochs * math.ceil(len(labels) / 128), 128, 0, 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        step, start = state["step"], state["epoch"]
    for epoch in range(start, epochs):
        batches = (augmented_batches if augment else plain_batches)(images, labels, size, 1000 * seed + epoch)
        for inputs, wanted in batches:
            share = step / steps
            rate = 0.1 * min(1.0, share / 0.05) * 0.5 * (1 + math.cos(math.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = F.cross_entropy(network(inputs.contiguous(memory_format=torch.channels_last)), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "epoch": epoch + 1}
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
        print(f"{path.stem}: epoch {epoch + 1} of {epochs}, loss {float(loss.detach()):.3f}", flush=True)
    return network.eval()


def trained(
    name: str, widths: Sequence[int], data: FashionMNIST, epochs: int, seed: int, folder: Path, augment: bool = True
) -> nn.Module:
    """Return a trained ConvNet in eval mode, from ``folder`` if it was trained there before."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network, path = convnet(widths), folder / f"{name}-{epochs}-{seed}{'' if augment else '-plain'}.pt"
    return train(network, data.train.images, data.train.labels, epochs, seed, path, augment)


def main() -> None:
    """Train both networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-augment", action="store_true", help="train on the images as they are")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = fashion(given.data_dir)
    for name, widths in {"dense": WIDTHS, "half": half_width()}.items():
        network = trained(name, widths, data, given.epochs, given.seed, given.folder, not given.no_augment)
        with torch.no_grad():
            right = (network(data.val.images).argmax(1) == data.val.labels).float().mean()
        print(f"{name}: held-out accuracy {float(right):.4f}")


if __name__ == "__main__":
    main()
