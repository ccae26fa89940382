"""The extensions under docs/extending/examples in a training loop; test_commands.py runs them in the program."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from lightning_dynprune import Pruner
from lightning_dynprune.schedules import Clock, Horizon
from tests.docs.documents import DOCS, EXAMPLES


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def example(module: str, cls: str) -> Any:
    return getattr(importlib.import_module(module), cls)


def linear(rows: list[list[float]]) -> torch.nn.Linear:
    net = torch.nn.Linear(len(rows[0]), len(rows), bias=False)
    net.weight.data = torch.tensor(rows)
    return net


def prune_once(net: torch.nn.Module, **settings: Any) -> None:
    once = {"name": "one_shot", "begin": 1}
    Pruner(net, **{"sparsity": 0.5, "strategy": "magnitude", "schedule": once, **settings}).tick()


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_a_file_of_under_thirty_lines_that_the_page_shows_with_its_settings(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) < 30
    page = (DOCS / "extending" / "index.md").read_text(encoding="utf-8")
    (settings,) = EXAMPLES.glob(f"conf/*/{file.stem}.yaml")
    assert f"examples/{file.name}" in page
    assert f"examples/conf/{settings.parent.name}/{settings.name}" in page


def test_the_strategy_scores_a_weight_against_its_row():
    net = linear([[1.0, 2.0, 3.0, 4.0], [100.0, 200.0, 300.0, 400.0]])
    prune_once(net, strategy=example("row_magnitude", "RowMagnitude")())
    assert net.weight.tolist() == [[0.0, 0.0, 3.0, 4.0], [0.0, 0.0, 300.0, 400.0]]


def test_the_threshold_cuts_at_the_root_mean_square():
    net = linear([[1.0, 1.0, 1.0, 5.0], [5.0, 7.0, 7.0, 7.0]])  # the squares sum to 200, their mean is 25
    prune_once(net, sparsity=0.9, threshold=example("root_mean_square", "RootMeanSquare")())
    assert net.weight.tolist() == [[0.0, 0.0, 0.0, 0.0], [0.0, 7.0, 7.0, 7.0]]


def test_the_schedule_rises_in_stairs():
    schedule = example("staircase", "Staircase")(0.8, begin=10, end=50, every=1, stairs=4).resolve(Horizon())
    values = [round(schedule.value(Clock(step)), 6) for step in (0, 10, 19, 20, 39, 40, 49, 50, 60)]
    assert values == [0.0, 0.0, 0.0, 0.2, 0.4, 0.6, 0.6, 0.8, 0.8]


def test_the_pattern_prunes_whole_kernels_of_any_size():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, bias=False), torch.nn.Conv2d(4, 2, 5, bias=False))
    before = [conv.weight.detach().clone() for conv in net]
    prune_once(net, pattern=example("kernel", "Kernel")())
    kept = [conv.weight.ne(0).sum((2, 3)) for conv in net]
    assert all(set(count.unique().tolist()) <= {0, size} for count, size in zip(kept, (9, 25), strict=True))
    means = torch.cat([weight.abs().mean((2, 3)).flatten() for weight in before])
    alive = torch.cat([count.flatten() for count in kept]) > 0
    assert means[alive].min() > means[~alive].max()
    assert abs(sum(int(c.sum()) for c in kept) - 136) <= 25  # half of the 272 connections, to one unit


@pytest.mark.parametrize(
    ("module", "cls", "axis"),
    [
        ("row_magnitude", "RowMagnitude", "strategy"),
        ("root_mean_square", "RootMeanSquare", "threshold"),
        ("staircase", "Staircase", "schedule"),
        ("kernel", "Kernel", "pattern"),
    ],
)
def test_an_example_trains_by_its_registered_name(module, cls, axis):
    example(module, cls)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.Flatten())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    pruner = Pruner(net, optimizer, sparsity=0.75, total_steps=20, **{"strategy": "magnitude", axis: module})
    for _ in range(20):
        optimizer.zero_grad()
        net(torch.randn(8, 1, 8, 8)).square().mean().backward()
        optimizer.step()
        pruner.tick()
    zeros = sum(int((layer.weight == 0).sum()) for layer in (net[0], net[2]))
    assert zeros == round(0.75 * 648)
    assert pruner.sparsity == 0.75
