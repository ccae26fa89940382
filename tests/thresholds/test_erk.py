"""The densities of erk, against the iteration of RigL's authors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.selection import Scores
from lightning_dynprune.thresholds import TopK


def resnet50() -> list[tuple[int, ...]]:
    """Return the shapes of the 53 convolutions and the classifier."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7)]
    channels = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            shapes += [(width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                shapes.append((4 * width, channels, 1, 1))
            channels = 4 * width
    return [*shapes, (1000, 2048)]


def densities(shapes: list[tuple[int, ...]], sparsity: float) -> list[float]:
    """Solve eps; layers that come out above 1 are dense; solve again, until none does."""
    sizes = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        sparse = [i for i in range(len(shapes)) if i not in dense]
        room = (1 - sparsity) * sum(sizes) - sum(sizes[i] for i in dense)
        eps = room / sum(raw[i] * sizes[i] for i in sparse)
        above = {i for i in sparse if eps * raw[i] > 1}
        if not above:
            return [1.0 if i in dense else eps * raw[i] for i in range(len(shapes))]
        dense |= above


def test_the_shapes_are_those_of_resnet_50():
    shapes = resnet50()
    assert len(shapes) == 54
    assert sum(map(math.prod, shapes)) == 25_502_912  # 25,557,032 parameters less 53,120 of norms and 1,000 biases


@pytest.mark.parametrize(("sparsity", "dense"), [(0.8, 8), (0.9, 1)])
def test_resnet_50_is_shared_out_as_the_authors_do(sparsity, dense):
    shapes = resnet50()
    scores = [Scores.from_tensor(str(i), torch.zeros(()).expand(shape)) for i, shape in enumerate(shapes)]
    kept = [cut.kept for cut in TopK("erk").cut(scores, sparsity)]
    expected = [d * math.prod(shape) for d, shape in zip(densities(shapes, sparsity), shapes, strict=True)]
    assert max(abs(k - e) for k, e in zip(kept, expected, strict=True)) <= 1
    assert sum(kept) == sum(map(math.prod, shapes)) - round(sparsity * sum(map(math.prod, shapes)))
    assert sum(d == 1.0 for d in densities(shapes, sparsity)) == dense
    assert sum(k == math.prod(shape) for k, shape in zip(kept, shapes, strict=True)) == dense


def test_a_network_is_shared_out_through_the_pruner_too():
    net = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.Conv2d(4, 16, 3, bias=False), nn.Linear(40, 10, bias=False))
    pruner = Pruner(net, sparsity=0.5, strategy="static")
    pruner.start()
    # Of 72 + 576 + 400 = 1,048 connections 524 live, in proportion to 12, 26 and 50: 71.5, 154.8 and 297.7.
    assert pruner.masks.kept == [71, 155, 298]
    expected = [
        d * n for d, n in zip(densities([(4, 2, 3, 3), (16, 4, 3, 3), (10, 40)], 0.5), (72, 576, 400), strict=True)
    ]
    assert max(abs(k - e) for k, e in zip(pruner.masks.kept, expected, strict=True)) <= 1
