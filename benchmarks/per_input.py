"""What networks that compute less for easy inputs lose in accuracy and gain in time, beside static ways to be smaller.

ConvNet 64-64-128-128 on Fashion-MNIST, three seeds. Thresholds are chosen on 5,000 training images that are held out;
the test set is looked at once. Times are those of one thread, in turns with the fastest dense form in the same process
(batch norms folded, channels_last), by CPU time; p50 and p95 by the wall clock. ``--short`` tries every kind of run on
few images.
"""

from __future__ import annotations

import copy
import fcntl
import functools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timing
import torch
from fashion import WIDTHS, fashion, half_width, plain_batches, trained
from runs import Record, Run, command_line
from torch import Tensor, nn

from lightning_dynprune.adaptive import Adapted, ChannelGates, EarlyExits, adapt, dense_form, measure_speed, strip
from lightning_dynprune.adaptive.stages import flat_form
from lightning_dynprune.deploy.exporting import export, quantize
from lightning_dynprune.deploy.measurement import count_macs
from lightning_dynprune.deploy.timing import time_interleaved

if TYPE_CHECKING:
    from lightning_dynprune.app.data import FashionMNIST
    from lightning_dynprune.app.interrupt import StopRequest

SEEDS = (0, 1, 2)
BATCHES = (1, 32)
TIMED = 256  # held-out images that times are measured on
EXAMPLE = (1, 1, 28, 28)
CUT = "block3"


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Args:
        shown: its name in the table.
        kind: which function makes it.
        settings: of the method.
    """

    shown: str
    kind: str
    settings: Mapping[str, Any]


METHODS = {
    "dense": Method("dense", "static", {}),
    "two exits": Method("two exits", "early_exit", {"after": ["block2", CUT]}),
    "three exits": Method("three exits", "early_exit", {"after": ["block1", "block2", CUT]}),
    "three exits, 0.3": Method(
        "three exits, up to 0.3 points allowed",
        "early_exit",
        {"after": ["block1", "block2", CUT], "max_drop": 0.003, "margin": 0.0},
    ),
    "cut": Method("cut after the third convolution for all inputs, end refitted", "static", {}),
    "half": Method("half the width, trained alike", "static", {}),
    "cascade": Method("cascade of a quarter, half and the whole width", "prefix_width", {"epochs": 3}),
    "first pass": Method("a quarter of the width decides the width", "prefix_width", {"epochs": 3, "decide": "first"}),
    "gates": Method("channel gates, half of the channels", "channel_gate", {"epochs": 3}),
}


class Epochs:
    """Batches of images in another order each time they are read.

    Args:
        images: of the training set.
        labels: their classes.
        seed: of the orders.
    """

    def __init__(self, images: Tensor, labels: Tensor, seed: int) -> None:
        self.images, self.labels, self.seed, self.epoch = images, labels, seed, 0

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / 128)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.epoch += 1
        for inputs, labels in plain_batches(self.images, self.labels, 128, 7000 * self.seed + self.epoch):
            yield inputs.contiguous(memory_format=torch.channels_last), labels


def measure(settings: Mapping[str, Any], folder: Path, stop: StopRequest) -> Record:
    """Make one network and return its figures beside those of the dense one."""
    torch.set_num_threads(1)
    began = time.monotonic()
    data = _data(settings)
    dense = network("dense", WIDTHS, data, settings, folder.parent)
    method = METHODS[settings["method"]]
    torch.manual_seed(settings["seed"])
    make = static if method.kind == "static" else per_input
    record = make(settings, dense, data, folder)
    return {**record, "seed": settings["seed"], "seconds": time.monotonic() - began}


def static(settings: Mapping[str, Any], dense: nn.Module, data: FashionMNIST, folder: Path) -> Record:
    """Return the figures of a network that computes the same for all inputs."""
    name = settings["method"]
    if name == "half":
        other = network("half", half_width(), data, settings, folder.parent)
    elif name == "cut":
        other = cut_off(dense, data, settings)
    else:
        other = dense
    example = torch.zeros(EXAMPLE)
    fast_dense, fast = (flat_form(dense_form(each, example), example) for each in (dense, other))
    compute = count_macs(other, example) / count_macs(dense, example)
    record = {**accuracies(dense, other, data), "compute": compute}
    record["speed"] = speeds(fast_dense, fast, data, settings["timed_seconds"]) if name != "dense" else {}
    record["onnx"] = onnx_speeds(fast_dense, other, data, settings["timed_seconds"], folder)
    return record


def per_input(settings: Mapping[str, Any], dense: nn.Module, data: FashionMNIST, folder: Path) -> Record:
    """Return the figures of a network that computes less for easy inputs."""
    method = METHODS[settings["method"]]
    train = Epochs(data.train.images, data.train.labels, settings["seed"])
    held_out = list(plain_batches(data.val.images, data.val.labels, 250, 0))
    found = adapt(copy.deepcopy(dense), method.kind, train, held_out, seed=settings["seed"], **settings["set"])
    record: Record = accuracies(dense, found, data)
    evaluation = found.evaluate(list(plain_batches(data.test.images, data.test.labels, 500, 0)))
    record["compute"], record["paths"] = evaluation.compute_mean, list(evaluation.path_shares)
    correlation = evaluation.rank_correlation
    record["rank_correlation"] = None if math.isnan(correlation) else correlation
    images = laid_out(data.val.images[:TIMED])
    deployed = found.deploy(images, batches=BATCHES, seconds=settings["timed_seconds"])
    record["speed"] = {str(size): _speed(speed) for size, speed in deployed.speeds.items()}
    record["layers"] = gathered_speeds(found, dense, images, settings["timed_seconds"])
    if isinstance(found.module, EarlyExits):
        record["onnx"] = onnx_exit_speeds(deployed.dense, found, dense, data, settings["timed_seconds"], folder)
    return record


def onnx_exit_speeds(
    fast_dense: nn.Module, found: Adapted, dense: nn.Module, data: FashionMNIST, seconds: float, folder: Path
) -> dict[str, Any]:
    """Return how fast exits run by stages in ONNX Runtime, beside torch's dense network, and what 8 bits lose."""
    images = data.val.images[:TIMED]
    result: dict[str, Any] = {str(size): {} for size in BATCHES}
    for precision in ("float32", "int8"):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            place = Path(scratch) / "exits"
            written = found.export(place, images, batches=BATCHES, seconds=seconds, precision=precision)
            for size in BATCHES:
                speed = measure_speed(fast_dense, written.adaptive, images, size, seconds)
                result[str(size)][precision] = speed.ratio.median
                result[str(size)][f"{precision} over its own dense"] = written.speeds[size].ratio.median
            if precision == "int8":
                own = accuracies(dense, written.adaptive, data, torch.contiguous_format)
                result["int8_loss"], result["int8_loss_error"] = own["loss"], own["loss_error"]
    return result


def gathered_speeds(found: Adapted, dense: nn.Module, images: Tensor, seconds: float) -> dict[str, float]:
    """Return, of gates, how many times as fast each convolution is gathered as with masked outputs."""
    module = found.module
    if not isinstance(module, ChannelGates):
        return {}
    module.fast_runner(dense, images, seconds)
    return {name: ratio.median for name, ratio in module.layer_speeds.items()}


def cut_off(dense: nn.Module, data: FashionMNIST, settings: Mapping[str, Any]) -> nn.Module:
    """Return the network up to the last exit, with the head that exits use there as its end."""
    train = Epochs(data.train.images, data.train.labels, settings["seed"])
    held_out = [(data.val.images, data.val.labels)]
    net = copy.deepcopy(dense)
    found = adapt(net, "early_exit", train, held_out, after=[CUT], seed=settings["seed"])
    assert isinstance(found.module, EarlyExits)
    head = copy.deepcopy(found.module.exit_heads[0])
    strip(net)
    blocks = list(net.children())[: [name for name, _ in net.named_children()].index(CUT) + 1]
    return nn.Sequential(*blocks, head).eval()


@torch.no_grad()
def accuracies(
    dense: nn.Module,
    other: Callable[[Tensor], Tensor],
    data: FashionMNIST,
    memory_format: torch.memory_format = torch.channels_last,
) -> Record:
    """Return the test error of a network, and what it loses beside the dense one with the standard error."""
    parts, labels = data.test.images.split(500), data.test.labels
    layouts = ((dense, torch.channels_last), (other, memory_format))
    right = [
        torch.cat([network(part.contiguous(memory_format=layout)).argmax(1) for part in parts]) == labels
        for network, layout in layouts
    ]
    lost = right[0].double() - right[1].double()
    return {
        "test_error": 1 - float(right[1].double().mean()),
        "dense_error": 1 - float(right[0].double().mean()),
        "loss": float(lost.mean()),
        "loss_error": float(lost.std() / math.sqrt(len(lost))),
    }


def speeds(dense: nn.Module, other: nn.Module, data: FashionMNIST, seconds: float) -> dict[str, Any]:
    """Return how fast a network is beside the dense one, by batch size."""
    images = laid_out(data.val.images[:TIMED])
    with torch.no_grad():
        return {str(size): _speed(measure_speed(dense, other, images, size, seconds)) for size in BATCHES}


def onnx_speeds(dense: nn.Module, other: nn.Module, data: FashionMNIST, seconds: float, folder: Path) -> dict[str, Any]:
    """Return how fast ONNX Runtime runs a network, in float32 and in 8 bits, beside torch's dense network."""
    images = data.val.images
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        written = export(dense_form(other, images[:1]), images[:4], "onnx", Path(scratch) / "network.onnx")
        forms = {"float32": written.runner(), "int8": quantize(written).runner()}
        found: dict[str, Any] = {}
        for size in BATCHES:
            batch = images[:size].contiguous()
            calls: dict[str, Callable[[], object]] = {
                name: functools.partial(run, batch) for name, run in forms.items()
            }
            laid = laid_out(batch)
            with torch.no_grad():
                rounds = time_interleaved({"torch": functools.partial(dense, laid), **calls}, seconds=seconds)
            found[str(size)] = {name: rounds.ratio(name, "torch", "cpu").median for name in forms}
        own = accuracies(dense, lambda part: forms["int8"](part)[0], data, torch.contiguous_format)
    return {**found, "int8_loss": own["loss"], "int8_loss_error": own["loss_error"]}


def network(name: str, widths: Sequence[int], data: FashionMNIST, settings: Mapping[str, Any], work: Path) -> nn.Module:
    """Return a trained network, which the first run that needs it trains."""
    folder = work / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}-{settings['seed']}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return trained(name, widths, data, settings["epochs"], settings["seed"], folder, augment=False)


def laid_out(images: Tensor) -> Tensor:
    """Return images with their channels last in memory."""
    return images.contiguous(memory_format=torch.channels_last)


def runs_of(short: bool) -> list[Run]:
    """Return the runs: every method with every seed.

    Args:
        short: one seed, 2,000 images and one epoch.
    """
    own = {"epochs": 1, "images": 2000, "timed_seconds": 0.1} if short else {"epochs": 6, "timed_seconds": 4.0}
    found = []
    for seed in SEEDS[:1] if short else SEEDS:
        for name, method in METHODS.items():
            adjusted = dict(method.settings) | ({"epochs": 1} if short and method.kind != "static" else {})
            settings = {**own, "seed": seed, "method": name, "set": adjusted}
            found.append(Run(f"{name}, seed {seed}", settings, measure))
    return found


def table(records: Mapping[str, Record]) -> str:
    """Return the two tables, means over the seeds that are finished."""
    torch_lines = [
        "| | seeds | loss of accuracy, points | multiply-adds | batch 1 | p50 | p95 | batch 32 | rank correlation |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    onnx_lines = [
        "| in ONNX Runtime, over dense in torch | batch 1 | batch 32 | int8, batch 1 | int8, batch 32 | int8 loses |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, method in METHODS.items():
        found = [record for key, record in records.items() if key.rpartition(", seed ")[0] == name]
        if found:
            torch_lines.append(f"| {method.shown} | {len(found)} | {' | '.join(_cells(found))} |")
        if any(record.get("onnx") for record in found):
            onnx_lines.append(f"| {method.shown} | {' | '.join(_onnx_cells(found))} |")
    return "\n".join([*torch_lines, "", *onnx_lines])


def _cells(found: Sequence[Record]) -> list[str]:
    loss, error = (100 * _mean(found, key) for key in ("loss", "loss_error"))
    # The spread of the test images is that of one seed, as all seeds have the same images.
    cells = [f"{loss:.2f} ± {error:.2f}" if any(record["loss_error"] for record in found) else "0"]
    cells.append(f"{_mean(found, 'compute'):.2f}")
    for size, key in (("1", "ratio"), ("1", "p50"), ("1", "p95"), ("32", "ratio")):
        values = [record["speed"][size][key] for record in found if record["speed"]]
        cells.append(f"{statistics.mean(values):.2f}x" if values else "1x")
    correlations = [record["rank_correlation"] for record in found if record.get("rank_correlation") is not None]
    cells.append(f"{statistics.mean(correlations):+.2f}" if correlations else "-")
    return cells


def _onnx_cells(found: Sequence[Record]) -> list[str]:
    measured = [record["onnx"] for record in found if record.get("onnx")]
    cells = [
        f"{statistics.mean(each[size][form] for each in measured):.1f}x"
        for form in ("float32", "int8")
        for size in ("1", "32")
    ]
    losses = [each["int8_loss"] for each in measured if "int8_loss" in each]
    return [*cells, f"{100 * statistics.mean(losses):.2f}" if losses else "-"]


def _mean(found: Sequence[Record], key: str) -> float:
    return statistics.mean(record[key] for record in found)


def _speed(speed: Any) -> dict[str, float]:
    return {
        "ratio": speed.ratio.median,
        "low": speed.ratio.low,
        "high": speed.ratio.high,
        "p50": speed.p50[0] / speed.p50[1],
        "p95": speed.p95[0] / speed.p95[1],
        "runs_per_input": speed.is_adaptive,
    }


def _data(settings: Mapping[str, Any]) -> FashionMNIST:
    data = fashion(None)
    if most := settings.get("images"):
        for part in (data.train, data.val, data.test):
            part.images, part.labels = part.images[:most], part.labels[:most]
    return data


def show(records: Mapping[str, Record], path: Path) -> None:
    """Print the table and where the results are."""
    print(table(records))
    print(f"results: {path}")


if __name__ == "__main__":
    command_line(__doc__, runs_of, timing.RESULTS / "per_input.json", show)
