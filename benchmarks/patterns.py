"""How much accuracy does each pattern keep, for which measured speed and file size?

    python benchmarks/patterns.py                 # trains what is missing, then prints the tables and draws
    python benchmarks/patterns.py --only 'GPT, channel*'
    python benchmarks/patterns.py --table         # from results/patterns.json

The patterns are single connections, blocks of 8, 16 and 32 outputs by one input, channels and 2:4, at 50 to 95 % (2:4
at 50 %), with 3 seeds, and the dense baseline. In each network the same weights are pruned with every pattern, with
the same strategy, data, steps and learning rates, which are in NETS:

- MLP 784-512-256-10 on Fashion-MNIST, all weights. The last rows of the 10 outputs, which fill no block, stay dense.
- The program's ConvNet on Fashion-MNIST, its convolutions. With 2:4 the one with one input channel stays dense, with
  blocks of 32 the one with 16 outputs.
- A GPT of 1.0 M parameters on the bytes of the source of Python's standard library, its feed-forward layers. Every
  run starts from the same densely trained weights, and the dense baseline trains for as many further steps. The
  accuracy is that of the next byte, in modules that are not in the training data.

For channels the sparsity counts all connections, also those that read pruned channels: half the channels of an MLP
are about 75 %, and half the hidden units of a feed-forward layer 50 %. Then each network is made as fast as possible
on one thread of this machine, channels by ``slim``, connections and blocks by ``accelerate``, and alternates with the
dense one at batch sizes 1 and 32 (a GPT's sample has 64 bytes), timed by CPU time. No CPU kernel multiplies 2:4, and
none skips zeros of a convolution. The file size is that of a compact file with zstd, or of the slim file if that is
smaller, as a share of the dense safetensors file.

Prints Markdown tables and the patterns on the Pareto front, where no other pattern is at least as accurate for at
most the same time, or bytes; draws the same. A network must be at least 5 % faster than dense to be on the front of
latency.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import runs
import timing
from runs import Record, Run
from strategies import DEPTH, cell

if TYPE_CHECKING:
    import lightning.pytorch as L
    from matplotlib.axes import Axes
    from torch import Tensor, nn

    from lightning_dynprune.app.interrupt import StopRequest

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
SEEDS = (0, 1, 2)
BATCHES = (1, 32)
CONTEXT = 64  # bytes of a GPT's sample
HELD = 5_000  # images that measure the validation error
MARGIN = 1.05  # times as fast as dense, from which on a network counts as faster
DENSE = "dense"


@dataclass(frozen=True)
class Way:
    """A pattern, and the method that makes its pruned network fast.

    Args:
        pattern: setting of DynamicPruning; None trains densely.
        deploy: ``accelerate``, ``slim``, or None if no kernel computes it faster than dense.
        color: colour of its line.
        only: its only sparsity; None for all sparsities.
    """

    pattern: Mapping[str, Any] | None
    deploy: str | None
    color: str
    only: float | None = None


WAYS = {
    "element": Way({"name": "element"}, "accelerate", "#0b6e99"),
    "block 8x1": Way({"name": "block", "rows": 8, "pad": True}, "accelerate", "#a3c586"),
    "block 16x1": Way({"name": "block", "rows": 16, "pad": True}, "accelerate", "#5b8c5a"),
    "block 32x1": Way({"name": "block", "rows": 32, "pad": True}, "accelerate", "#2c5234"),
    "channel": Way({"name": "channel"}, "slim", "#c8553d"),
    "2:4": Way({"name": "n_m", "pad": True}, None, "#8e6bbf", only=0.5),
    DENSE: Way(None, None, "#374151", only=0.0),
}


@dataclass(frozen=True)
class Net:
    """A network and its training.

    Args:
        network: returns the network.
        samples: returns training, validation and test samples; called with the number of training samples.
        classes: number of outputs.
        settings: samples, epochs, batch, rate, strategy and targets; ``relative`` for the pattern ``channel``;
            ``start``, the settings of a dense training before, shared by all runs.
        short: the settings that a short trial replaces.
    """

    network: Callable[[], nn.Module]
    samples: Callable[[int], tuple[Samples, Samples, Samples]]
    classes: int
    settings: Mapping[str, Any]
    short: Mapping[str, Any] = field(default_factory=lambda: {"samples": 1_000, "epochs": 1})


Samples = tuple["Tensor", "Tensor"]


def mlp() -> nn.Module:
    """Return the MLP."""
    import models

    return models.mlp()


def convnet() -> nn.Module:
    """Return the program's ConvNet."""
    from lightning_dynprune.app.models import ConvNet

    return ConvNet((1, 28, 28), 10)


def gpt() -> nn.Module:
    """Return a GPT of 2 blocks, 192 wide."""
    import models

    return models.one_scale(models.GPT(vocabulary=256, width=192, depth=2, heads=4))


@cache
def images(count: int) -> tuple[Samples, Samples, Samples]:
    """Return ``count`` training images of Fashion-MNIST in a fixed random order, held-out images and the test set."""
    from lightning_dynprune.app.data import FashionMNIST

    data = FashionMNIST((1, 28, 28), 10, 128, 60_000 - count, 0)
    data.setup()
    train, held, test = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    held_out = held.images[:HELD].clone(), held.labels[:HELD].clone()
    return (train.images, train.labels), held_out, (test.images, test.labels)


@cache
def text(count: int) -> tuple[Samples, Samples, Samples]:
    """Return ``count`` pieces of the training modules, and pieces of those held out for validation and test."""
    parts = [[path.read_bytes() for path in paths] for paths in split(modules())]
    return windows(b"".join(parts[0]), count), windows(b"".join(parts[1]), 250), windows(b"".join(parts[2]), 500)


def modules() -> list[Path]:
    """Return the files of the standard library's top-level modules.

    Raises:
        FileNotFoundError: this Python has no source of them.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    found = sorted(folder.glob("*.py"))
    if len(found) < 100:
        raise FileNotFoundError(f"{folder} holds {len(found)} modules as source text; this needs the whole library")
    return found


def split(paths: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Return modules for training, validation and test; the MD5 of a name puts a tenth each into the last two.

    Example:
        >>> [len(part) for part in split([Path(f"{number}.py") for number in range(100)])]
        [82, 8, 10]
    """
    parts: tuple[list[Path], list[Path], list[Path]] = ([], [], [])
    for path in paths:
        draw = int(hashlib.md5(path.name.encode()).hexdigest(), 16) % 10
        parts[{8: 1, 9: 2}.get(draw, 0)].append(path)
    return parts


def windows(content: bytes, count: int, length: int = CONTEXT) -> Samples:
    """Return up to ``count`` evenly spaced pieces of a text, and the same pieces shifted by one byte.

    Example:
        >>> inputs, wanted = windows(b"abcdefg", 2, length=3)
        >>> inputs.tolist(), wanted[1].tolist()
        ([[97, 98, 99], [100, 101, 102]], [101, 102, 103])
    """
    import torch

    data = torch.frombuffer(bytearray(content), dtype=torch.uint8).long()
    most = (len(data) - 1) // length
    starts = (torch.linspace(0, most - 1, min(count, most)).long() * length).unsqueeze(1)
    places = starts + torch.arange(length)
    return data[places], data[places + 1]


# The strategy and `relative` gave the lowest validation error, of channels at 80 to 95 % with one or two seeds; the
# MLP's rate was chosen from one block and one channel setting, the GPT's from one, the ConvNet's was not tuned.
NETS = {
    "MLP": Net(
        mlp,
        images,
        10,
        {"samples": 20_000, "epochs": 4, "batch": 128, "rate": 4e-3, "strategy": "taylor", "relative": False},
    ),
    "ConvNet": Net(
        convnet,
        images,
        10,
        {
            "samples": 5_000,
            "epochs": 6,
            "batch": 64,
            "rate": 1e-2,
            "strategy": "taylor",
            "relative": True,
            "targets": ["*conv*.weight"],
        },
    ),
    "GPT": Net(
        gpt,
        text,
        256,
        {
            "samples": 2_000,
            "epochs": 1,
            "batch": 8,
            "rate": 1e-3,
            "strategy": "taylor",
            "relative": False,
            "targets": ["*.feed_*.weight"],
            "start": {"samples": 16_000, "epochs": 1, "batch": 8, "rate": 3e-3},
        },
        short={"samples": 160, "start": {"samples": 320, "epochs": 1, "batch": 8, "rate": 3e-3}},
    ),
}


def train(settings: Mapping[str, Any], folder: Path, stop: StopRequest) -> Record:
    """Train one network, densely or with a pattern, and measure its accuracy, latency and file size."""
    import torch

    from lightning_dynprune import DynamicPruning
    from lightning_dynprune.app.data.batches import TensorBatches

    torch.set_num_threads(1)
    net = NETS[settings["net"]]
    samples, *others = net.samples(settings["samples"])
    network = begun(net, settings, folder.parent)
    pruning = None
    if settings["pattern"] is not None:
        own = {key: settings[key] for key in ("strategy", "pattern", "targets") if key in settings}
        if own["pattern"]["name"] == "channel":
            own["pattern"] = {**own["pattern"], "relative": settings["relative"]}
        pruning = DynamicPruning(settings["sparsity"], **own, example_input=samples[0][:2], seed=settings["seed"])
    batches = TensorBatches(*samples, settings["batch"], settings["seed"])
    trainer, module, seconds = fit(network, net.classes, batches, settings, [] if pruning is None else [pruning])
    held, tested = [
        trainer.validate(module, TensorBatches(*part, batch_size=500, seed=None), verbose=False)[0] for part in others
    ]
    way = WAYS[settings["way"]]
    return {
        "test_error": 1 - tested["val_acc"],
        "test_loss": tested["val_loss"],
        "val_error": 1 - held["val_acc"],
        "val_loss": held["val_loss"],
        "sparsity": 0.0 if pruning is None else pruning.sparsity,
        "layers": {} if pruning is None else {k.removeprefix("network."): v for k, v in pruning.layer_sparsity.items()},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "nonzero": sum(int(parameter.detach().count_nonzero()) for parameter in network.parameters()),
        "steps": trainer.global_step,
        "seconds": seconds,
        **deployed(network, way.deploy, others[1][0], settings["measure"], folder),
    }


def begun(net: Net, settings: Mapping[str, Any], work: Path) -> nn.Module:
    """Return the network with the seed's initial weights, or after its first, dense training.

    Args:
        net: the network and its training.
        settings: the settings of the run.
        work: folder that caches the weights of the first training under a key of all that they depend on.
    """
    import lightning.pytorch as L
    from safetensors.torch import load_file, save_file

    from lightning_dynprune.app.data.batches import TensorBatches
    from lightning_dynprune.base import write_atomically

    L.seed_everything(settings["seed"], verbose=False)
    network = net.network()
    if "start" not in settings:
        return network
    start = {**settings["start"], "seed": settings["seed"]}
    path = work / f"{'-'.join(f'{key}-{value}' for key, value in start.items())}.safetensors"
    if not path.exists():
        samples, *_ = net.samples(start["samples"])
        fit(network, net.classes, TensorBatches(*samples, start["batch"], start["seed"]), start)
        write_atomically(path, lambda scratch: save_file(network.state_dict(), scratch))
    network.load_state_dict(load_file(path))
    return network


def fit(
    network: nn.Module, classes: int, batches: Any, settings: Mapping[str, Any], callbacks: Sequence[L.Callback] = ()
) -> tuple[L.Trainer, L.LightningModule, float]:
    """Train a network with Adam and a cosine schedule.

    Args:
        network: maps inputs to scores.
        classes: number of scores.
        batches: a sized iterable of inputs and labels.
        settings: epochs and rate.
        callbacks: callbacks such as DynamicPruning; an empty list trains densely.

    Returns:
        The Trainer, the LightningModule, and the seconds of training.
    """
    import lightning.pytorch as L
    import torch

    from lightning_dynprune.app.callbacks import History
    from lightning_dynprune.app.models import Classifier

    history = History()
    trainer = L.Trainer(
        max_epochs=settings["epochs"],
        accelerator="cpu",
        callbacks=[*callbacks, history],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    optimizer = partial(torch.optim.Adam, lr=settings["rate"], fused=True)
    module = Classifier(network, classes, optimizer, lr_schedule="cosine")
    trainer.fit(module, batches)
    return trainer, module, history.seconds


def deployed(network: nn.Module, way: str | None, samples: Tensor, seconds: float, folder: Path) -> dict[str, Any]:
    """Return the speed-up of a trained network over dense at each batch size, and the bytes of its files.

    Args:
        network: the trained network, with exact zeros.
        way: its pattern and the method that makes it fast; None measures no speed.
        samples: real inputs to measure with.
        seconds: approximate time to measure at each batch size.
        folder: folder for the files.
    """
    from lightning_dynprune.deploy.compact import save_compact, write_dense

    network.eval()
    found: dict[str, Any] = {
        "ratio": {},
        "bytes": {
            "dense": write_dense(network.state_dict(), folder / "dense.safetensors"),
            "compact": save_compact(network, folder / "compact.safetensors", zstd=True),
        },
    }
    if way == "slim":
        found |= _slimmed(network, samples, seconds, folder / "slim.safetensors", found)
    if way == "accelerate":
        found |= _accelerated(network, samples, seconds)
    return found


def _slimmed(
    network: nn.Module, samples: Tensor, seconds: float, path: Path, found: Mapping[str, Any]
) -> dict[str, Any]:
    import copy

    from lightning_dynprune.deploy.slimming import save, slim

    less = copy.deepcopy(network)
    report = slim(less, samples[:2])
    save(less, path)
    ratio, took = {}, {}
    for batch in BATCHES:
        ratio[str(batch)], took[str(batch)] = beside_dense(network, less, samples[:batch], seconds)
    return {
        "ratio": ratio,
        "dense_seconds": took,
        "difference": report.difference,
        "slim_parameters": report.parameters[1],
        "bytes": {**found["bytes"], "slim": path.stat().st_size},
    }


def _accelerated(network: nn.Module, samples: Tensor, seconds: float) -> dict[str, Any]:
    from lightning_dynprune.deploy.kernels import accelerate

    ratio, took, kernels = {}, {}, {}
    for batch in BATCHES:
        key, chosen = str(batch), accelerate(network, samples[:batch], seconds=seconds)
        # Measured anew, for what was chosen by a measurement looks better in that one than it is.
        ratio[key], took[key] = beside_dense(network, chosen.model, samples[:batch], seconds / 2)
        kernels[key] = {layer.name: layer.label for layer in chosen.layers}
        if chosen.ratio is None:
            ratio[key] = dict.fromkeys(("median", "low", "high"), 1.0)  # every layer is the dense one
    return {"ratio": ratio, "dense_seconds": took, "kernels": kernels}


def beside_dense(
    dense: nn.Module, other: nn.Module, samples: Tensor, seconds: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Return a network's speed-up over dense in the same rounds, and the CPU seconds of dense."""
    import torch

    from lightning_dynprune.deploy.timing import time_interleaved

    with torch.inference_mode():
        turns = time_interleaved({DENSE: lambda: dense(samples), "other": lambda: other(samples)}, seconds=seconds)
    return asdict(turns.ratio("other", DENSE)), asdict(turns.latency(DENSE, "cpu"))


def runs_of(short: bool) -> list[Run]:
    """Return all runs, ordered by seed, so that one seed is complete early."""
    made = []
    for seed in SEEDS[:1] if short else SEEDS:
        for net, of_net in NETS.items():
            common = {**of_net.settings, **(of_net.short if short else {}), "net": net, "seed": seed}
            for label, way in WAYS.items():
                for sparsity in sparsities(way)[1:2] if short and way.only is None else sparsities(way):
                    asked = sparsity if way.only is None else None
                    settings = {
                        "way": label,
                        "pattern": way.pattern,
                        "sparsity": asked,
                        "measure": 0.5 if short else 1.0,
                    }
                    made.append(Run(name(net, label, sparsity, seed), {**common, **settings}, train))
    return made


def sparsities(way: Way) -> Sequence[float]:
    """Return the sparsities of a pattern."""
    return SPARSITIES if way.only is None else (way.only,)


def name(net: str, label: str, sparsity: float, seed: int) -> str:
    """Return the name of a run."""
    return f"{net}, {label}{f', {100 * sparsity:g} %' if sparsity else ''}, seed {seed}"


@dataclass(frozen=True)
class Point:
    """The results of one pattern at one sparsity, over the seeds.

    Args:
        label: name of the pattern.
        sparsity: target sparsity.
        accuracies: test accuracies in percent, one per seed.
        speed: speed-up over dense at each batch size, the median of the seeds; empty if not measured.
        bytes: size of the compact file, or of the slim file if that is smaller, as a share of the dense file.
        slim_bytes: size of the slim file as a share of the dense file; None without one.
        loss: mean loss on the test set.
    """

    label: str
    sparsity: float
    accuracies: tuple[float, ...]
    speed: Mapping[int, float]
    bytes: float
    slim_bytes: float | None
    loss: float

    @property
    def accuracy(self) -> float:
        """The mean accuracy over the seeds, in percent."""
        return statistics.fmean(self.accuracies)

    def cost(self, measure: int | str) -> float | None:
        """Return the time of a batch relative to dense, or the bytes; None if it saves nothing or is unknown."""
        if measure == "bytes":
            return self.bytes
        if self.label == DENSE:
            return 1.0
        speed = self.speed.get(int(measure), 0.0)
        return 1 / speed if speed >= MARGIN else None


def points(records: Mapping[str, Record], net: str) -> list[Point]:
    """Return the points of a network with at least one finished seed."""
    found = []
    for label, way in WAYS.items():
        for sparsity in sparsities(way):
            names = [name(net, label, sparsity, seed) for seed in SEEDS]
            of_seeds = [records[key] for key in names if key in records]
            if not of_seeds:
                continue
            measured = {b: [r["ratio"][str(b)]["median"] for r in of_seeds if r["ratio"]] for b in BATCHES}
            sizes = [record["bytes"] for record in of_seeds]
            slim = [size["slim"] / size["dense"] for size in sizes if "slim" in size]
            found.append(
                Point(
                    label,
                    sparsity,
                    tuple(100 * (1 - record["test_error"]) for record in of_seeds),
                    {batch: statistics.median(ratios) for batch, ratios in measured.items() if ratios},
                    statistics.fmean(
                        min(size["compact"], size.get("slim", math.inf)) / size["dense"] for size in sizes
                    ),
                    statistics.fmean(slim) if slim else None,
                    statistics.fmean(record["test_loss"] for record in of_seeds),
                )
            )
    return found


def front(found: Sequence[Point], measure: int | str) -> list[Point]:
    """Return the points of the Pareto front, the most costly first.

    A point is dominated if another one costs at most as much and is at least as accurate, and is better in one of both.

    Args:
        found: points of one network.
        measure: a batch size, for its time, or ``bytes``.
    """
    costs = [(cost, point) for point in found if (cost := point.cost(measure)) is not None]
    left = [
        (cost, point)
        for cost, point in costs
        if not any(
            other <= cost and rival.accuracy >= point.accuracy and (other < cost or rival.accuracy > point.accuracy)
            for other, rival in costs
        )
    ]
    return [point for _, point in sorted(left, key=lambda pair: -pair[0])]


def table(records: Mapping[str, Record]) -> str:
    """Return a Markdown table per network: accuracy, speed-up at each batch size, bytes; points of a front are bold."""
    parts = []
    for net in NETS:
        found = points(records, net)
        if not found:
            continue
        fronts = {measure: front(found, measure) for measure in (*BATCHES, "bytes")}
        heads = ["", "sparsity", "accuracy", "loss", *[f"batch {batch}" for batch in BATCHES], "bytes", "slim file"]
        lines = [net, "", f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
        for point in found:
            speeds = [
                _bold(f"{point.speed[batch]:.2f}x", point in fronts[batch]) if batch in point.speed else "not measured"
                for batch in BATCHES
            ]
            if point.label == DENSE:
                speeds = [_bold("1x", point in fronts[batch]) for batch in BATCHES]
            row = [point.label, f"{100 * point.sparsity:g} %", cell(point.accuracies), f"{point.loss:.3f}", *speeds]
            row.append(_bold(f"{point.bytes:.3f}", point in fronts["bytes"]))
            row.append("-" if point.slim_bytes is None else f"{point.slim_bytes:.3f}")
            lines.append(f"| {' | '.join(row)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _bold(shown: str, is_so: bool) -> str:
    return f"**{shown}**" if is_so else shown


def verdict(records: Mapping[str, Record]) -> str:
    """Return the sparsities at which each pattern is on a Pareto front."""
    of_net = {net: points(records, net) for net in NETS}
    finished = {point.label for found in of_net.values() for point in found}
    stands: dict[str, dict[str, list[str]]] = {label: {} for label in WAYS if label != DENSE and label in finished}
    for net, found in of_net.items():
        for measure in (*BATCHES, "bytes"):
            for point in front(found, measure):
                if point.label != DENSE:
                    where = f"{net}, {measure if measure == 'bytes' else f'batch {measure}'}"
                    stands[point.label].setdefault(where, []).append(f"{100 * point.sparsity:g}")
    lines = []
    for label, places in stands.items():
        latency = [f"{where} ({', '.join(shares)} %)" for where, shares in places.items() if "bytes" not in where]
        size = [f"{where} ({', '.join(shares)} %)" for where, shares in places.items() if "bytes" in where]
        said = "; ".join(latency) if latency else "never; it saves time only on other devices, or saves bytes"
        lines.append(f"{label}: on the front of latency: {said}; on that of bytes: {'; '.join(size) or 'never'}")
    return "\n".join(lines) or "no pattern is finished"


def draw(records: Mapping[str, Record], path: Path) -> None:
    """Draw accuracy over speed and over bytes: one column per network, one line per pattern; rings mark the front."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from lightning_dynprune.base import write_atomically

    measures = (*BATCHES, "bytes")
    figure = Figure(figsize=(14, 13))
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.085, top=0.905, wspace=0.2, hspace=0.27)
    grid = figure.subplots(len(measures), len(NETS), squeeze=False)
    for column, net in enumerate(NETS):
        found = points(records, net)
        for row, measure in enumerate(measures):
            _draw_panel(grid[row][column], found, measure, net)
    keys = [
        Line2D(
            [], [], color=way.color, marker="o", markersize=4, label=label, linestyle="-" if way.only is None else ""
        )
        for label, way in WAYS.items()
    ]
    keys.append(
        Line2D([], [], color="#111827", marker="o", markersize=9, linestyle="", fillstyle="none", label="front")
    )
    figure.legend(handles=keys, loc="lower center", ncols=len(keys), frameon=False, fontsize=10)
    figure.text(0.06, 0.965, "Accuracy of each pattern over its speed-up and file size", fontsize=15, weight="bold")
    figure.text(
        0.06,
        0.942,
        f"Test accuracy, mean and range of {len(SEEDS)} seeds, at {', '.join(f'{100 * s:g}' for s in SPARSITIES)} % "
        "(2:4: 50 %); speed on one thread beside dense in the same rounds; compact file with zstd, or slim file",
        fontsize=10,
        color="#4b5563",
    )
    write_atomically(path, lambda scratch: figure.savefig(scratch, dpi=130, facecolor="white"))


def _draw_panel(axes: Axes, found: Sequence[Point], measure: int | str, net: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    def place(point: Point) -> float | None:
        if measure == "bytes":
            return point.bytes
        return 1.0 if point.label == DENSE else point.speed.get(int(measure))

    best = front(found, measure)
    for label, way in WAYS.items():
        line = [(x, point) for point in found if point.label == label and (x := place(point)) is not None]
        if not line:
            continue
        across, errors = [x for x, _ in line], [100 - point.accuracy for _, point in line]
        spread = [
            [point.accuracy - min(point.accuracies) for _, point in line],
            [max(point.accuracies) - point.accuracy for _, point in line],
        ]
        axes.errorbar(across, errors, yerr=spread[::-1], color=way.color, linewidth=1.5, elinewidth=0.8, marker="o",
                      markersize=4, linestyle="-" if way.only is None else "")  # fmt: skip
        on_front = [(x, 100 - point.accuracy) for x, point in line if point in best]
        axes.plot(*zip(*on_front, strict=True) if on_front else ((), ()), color=way.color, marker="o", markersize=10,
                  fillstyle="none", linestyle="", markeredgewidth=1.4)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    errors = [100 - accuracy for point in found for accuracy in point.accuracies]
    if errors:
        control = min((100 - point.accuracy for point in found if point.label == DENSE), default=min(errors))
        axes.set_ylim(min(max(errors), DEPTH * control) * 1.03, min(errors) * 0.97)
    if measure == "bytes":
        axes.invert_xaxis()
    ticks = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1) if measure == "bytes" else (0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 20, 30)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if measure == "bytes" else f"{x:g}x"))
    axes.yaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:g} %"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9, labelcolor="#374151")
    shown = "bytes, share of the dense file" if measure == "bytes" else f"times as fast as dense, batch {measure}"
    axes.set_xlabel(shown, color="#374151")
    axes.set_title(net, loc="left", fontsize=11, weight="bold")


def show(records: Mapping[str, Record], path: Path) -> None:
    """Print the tables and the Pareto fronts, and draw the figure beside the results."""
    print(f"\n{table(records)}\n")
    print(verdict(records))
    runs.draw_beside(path, records, draw)


if __name__ == "__main__":
    runs.command_line(__doc__, runs_of, timing.RESULTS / "patterns.json", show)
