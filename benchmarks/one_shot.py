"""How accurate is a network after pruning it once without further training, with and without reconstruction?

    OMP_NUM_THREADS=1 DYNPRUNE_DATA=... python benchmarks/one_shot.py   # ~10 minutes

Two networks are trained with three seeds each: LeNet-300-100 on MNIST, and a small GPT on the characters of the
language reference that ships with Python (``pydoc_data.topics``, every tenth topic held out). Each is then pruned
once to 50, 70, 80 and 90 % and to 2 of every 4 connections (pattern ``n_m``), every layer to the same sparsity
(threshold ``topk``, scope ``uniform``), by ``magnitude`` and by ``wanda``, with ``reconstruct`` and without. The
GPT's head and embeddings stay dense. The calibration batches are training samples, 2,048 images or 256 pieces of 64
characters, chosen by the seed. Nothing is trained after the cut.

Prints and writes as JSON the error on MNIST's test images and the loss on the held-out text, mean and range over the
seeds, with those of the dense networks, and the CPU seconds of calibration and cut on one thread.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

import timing
import torch
from models import GPT
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_dynprune.app.data import MNIST
from lightning_dynprune.app.models import LeNet300100
from lightning_dynprune.engine import Pruner
from lightning_dynprune.strategies import Wanda

CUTS = {
    "50 %": (0.5, "element"),
    "2:4": (0.5, "n_m"),
    "70 %": (0.7, "element"),
    "80 %": (0.8, "element"),
    "90 %": (0.9, "element"),
}
SEEDS = (0, 1, 2)
MUST_WIN_FROM = 0.7
CONTENDERS = {
    f"{name}{' + reconstruct' if reconstruct else ''}": {"strategy": strategy, "reconstruct": reconstruct}
    for name, strategy in (("magnitude", "magnitude"), ("wanda", Wanda()))
    for reconstruct in (False, True)
}


@dataclass(frozen=True)
class Trained:
    """A trained network with its error function and its calibration inputs."""

    network: nn.Module
    measure: Callable[[nn.Module], float]
    calibration: list[Tensor]
    exclude: tuple[str, ...] = ()


def fit(network: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], steps: int, rate: float) -> nn.Module:
    """Train with AdamW; the learning rate warms up over the first tenth of the steps."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for inputs, wanted in islice(batches, steps):
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), wanted).backward()
        optimizer.step()
        cycle.step()
    return network.eval()


def lenet(seed: int) -> Trained:
    """Train LeNet-300-100 on MNIST for six epochs."""
    torch.manual_seed(seed)
    data = MNIST((1, 28, 28), 10, batch_size=128, holdout=5000, seed=seed)
    data.setup()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(6):
            data.train.sampler.set_epoch(epoch)
            yield from data.train

    @torch.no_grad()
    def error(network: nn.Module) -> float:
        wrong = sum(int((network(images).argmax(1) != labels).sum()) for images, labels in data.test)
        return 100 * wrong / len(data.test.labels)

    network = fit(LeNet300100((1, 28, 28), 10), batches(), 6 * len(data.train), 1e-3)
    data.train.sampler.set_epoch(6)
    return Trained(network, error, [images for images, _ in islice(data.train, 16)])


def text() -> tuple[str, str]:
    """Return the text of the training topics and of the held-out ones."""
    names = sorted(topics)
    held = names[::10]
    return "".join(topics[name] for name in names if name not in held), "".join(topics[name] for name in held)


def gpt(seed: int, steps: int = 1500, length: int = 64) -> Trained:
    """Train a GPT of 0.8 M connections on characters; characters not in the training text become its first."""
    torch.manual_seed(seed)
    train, held = text()
    vocabulary = {character: number for number, character in enumerate(sorted(set(train)))}
    train, held = (torch.tensor([vocabulary.get(character, 0) for character in part]) for part in (train, held))
    random = torch.Generator().manual_seed(seed)

    def pieces(count: int) -> Tensor:
        starts = torch.randint(len(train) - length, (count, 1), generator=random)
        return train[starts + torch.arange(length + 1)]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            drawn = pieces(12)
            yield drawn[:, :-1], drawn[:, 1:]

    @torch.no_grad()
    def loss(network: nn.Module) -> float:
        rows = held[: len(held) // length * length].view(-1, length)
        losses = [F.cross_entropy(network(part[:, :-1]), part[:, 1:], reduction="sum") for part in rows.split(64)]
        return float(sum(losses)) / (len(rows) * (length - 1))

    network = fit(GPT(len(vocabulary), width=128, depth=4, heads=4), batches(), steps, 3e-3)
    return Trained(network, loss, [pieces(32)[:, :-1] for _ in range(8)], exclude=("head.weight",))


WORKLOADS = {"LeNet-300-100 on MNIST, test error %": lenet, "GPT on text, loss on held-out text": gpt}


def pruned(trained: Trained, settings: dict, sparsity: float, pattern: str) -> tuple[float, float]:
    """Prune a copy of the network once; return its error and the CPU seconds that the cut took."""
    network = copy.deepcopy(trained.network)
    pruner = Pruner(
        network,
        sparsity=sparsity,
        schedule={"name": "one_shot", "begin": 1},
        threshold={"name": "topk", "scope": "uniform"},
        pattern=pattern,
        exclude=trained.exclude,
        **settings,
    )

    def cut() -> None:
        if pruner.needs_layer_inputs:
            pruner.calibrate(trained.calibration)
        pruner.update(sparsity)

    seconds = timing.cpu_seconds(cut)
    return trained.measure(network), seconds


def compare(train: Callable[[int], Trained]) -> dict:
    """Train with every seed, and prune each network by every contender to every sparsity and pattern."""
    dense: list[float] = []
    cells = [(name, cut) for cut in CUTS for name in CONTENDERS]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {cell: [] for cell in cells}
    for seed in SEEDS:
        trained = train(seed)
        dense.append(trained.measure(trained.network))
        for name, cut in cells:
            found[name, cut].append(pruned(trained, CONTENDERS[name], *CUTS[cut]))
    rows = [
        {
            "contender": name,
            "cut": cut,
            "sparsity": CUTS[cut][0],
            "value": [value for value, _ in results],
            "seconds": statistics.median(seconds for _, seconds in results),
        }
        for (name, cut), results in found.items()
    ]
    return {"dense": dense, "rows": rows}


def wins(figures: dict) -> dict[str, bool]:
    """Return the strategies and cuts from 70 % on where the reconstructed network is not better with every seed."""
    values = {(row["contender"], row["cut"]): row["value"] for row in figures["rows"]}
    return {
        f"{name} {cut}": all(
            ours < masked for ours, masked in zip(values[f"{name} + reconstruct", cut], values[name, cut], strict=True)
        )
        for name in ("magnitude", "wanda")
        for cut, (sparsity, _) in CUTS.items()
        if sparsity >= MUST_WIN_FROM
    }


def table(workload: str, figures: dict) -> Table:
    """Return the table of one network."""
    digits = 2 if "%" in workload else 3

    def cell(values: list[float]) -> str:
        return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"

    shown = Table(title=f"{workload}: mean (range) of {len(SEEDS)} seeds; dense {cell(figures['dense'])}")
    shown.add_column("cut", justify="right")
    for name in CONTENDERS:
        shown.add_column(name, justify="right")
    for cut in CUTS:
        shown.add_row(cut, *[cell(row["value"]) for row in figures["rows"] if row["cut"] == cut])
    seconds = [
        statistics.median(row["seconds"] for row in figures["rows"] if row["contender"] == name) for name in CONTENDERS
    ]
    shown.add_section()
    shown.add_row("CPU s", *[f"{value:.2f}" for value in seconds])
    return shown


def main() -> None:
    """Run the benchmark from the command line: train, prune, print the tables, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=timing.RESULTS / "one_shot.json", help=timing.OUT_HELP)
    chosen = options.parse_args()
    timing.use_one_thread()
    console = timing.console()
    results = {}
    for workload, train in WORKLOADS.items():
        with console.status(workload):
            figures = compare(train)
        results[workload] = {**figures, "reconstruct_wins": wins(figures)}
        console.print(table(workload, figures))
        lost = [case for case, won in results[workload]["reconstruct_wins"].items() if not won]
        console.print(f"reconstruct wins at 70 % and above with every seed: {lost or 'yes'}")
    digest = hashlib.sha256("".join(text()).encode()).hexdigest()
    timing.write(
        chosen.out,
        question=__doc__.splitlines()[0],
        seeds=SEEDS,
        text={"source": "pydoc_data.topics", "sha256": digest},
        workloads=results,
    )
    console.print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
