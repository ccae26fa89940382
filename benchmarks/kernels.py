"""Which kernel computes a pruned Linear faster than dense and faster than int8, and from which sparsity on?

    OMP_NUM_THREADS=1 python benchmarks/kernels.py  # ~3 minutes
    OMP_NUM_THREADS=1 python benchmarks/kernels.py --short  # fewer sparsities and rounds: half a minute

The layer is a Linear of 1024 -> 4096 with random masks: blocks of 8 to 64 outputs by one input, and single connections;
its input has 1 or 32 rows. Dense, int8 dynamic quantization (which prunes nothing) and every kernel that supports the
mask alternate in one process on one thread, timed by CPU time. Then whole models are measured after ``accelerate``:
LeNet-300-100 pruned to 98 %, and a GPT of 10.7 M parameters with 70 % of the 32 x 1 blocks of its feed-forward layers
pruned. At last 20 MLPs of random widths, patterns and sparsities are accelerated: none may be slower than dense.

Prints tables of the ratio to dense in the same rounds, and writes JSON with the quartiles.
"""

from __future__ import annotations

import argparse
import itertools
import random
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timing
import torch
from models import GPT, lenet_300_100
from rich.table import Table
from torch import Tensor, nn

from lightning_dynprune.deploy.kernels import KERNELS, UnsuitableLayerError, accelerate
from lightning_dynprune.deploy.timing import time_interleaved

INPUTS, OUTPUTS = 1024, 4096
BATCHES = (1, 32)
BLOCK, ELEMENT = "block {}x1", "element"
PATTERNS = {BLOCK.format(height): height for height in (8, 16, 32, 64)} | {ELEMENT: 1}
SPARSITIES = {"block": (0.5, 0.7, 0.8, 0.9), ELEMENT: (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)}
SHORT = {"block": (0.5, 0.8), ELEMENT: (0.9,)}
AIMS = [  # pattern, sparsity, batch, what it is compared with, ratio
    ("block 32x1", 0.5, 1, "dense", 3.0),
    ("block 32x1", 0.8, 1, "dense", 8.0),
    ("block 32x1", 0.7, 1, "int8", 1.0),
    ("block 32x1", 0.8, 1, "int8", 1.0),
    ("block 32x1", 0.9, 1, "int8", 1.0),
    (ELEMENT, 0.9, 1, "dense", 3.0),
    (ELEMENT, 0.9, 32, "dense", 3.5),
]
RANDOM_MODELS, SHORT_RANDOM_MODELS = 20, 6
WIDTHS, HEIGHTS = (10, 100, 300, 784, 1024, 1536), (1, 1, 8, 16, 32, 64)
Row = dict[str, Any]


def prune(layer: nn.Linear, sparsity: float, height: int) -> nn.Linear:
    """Set exactly this share of a layer's blocks to zero, chosen at random."""
    outputs, inputs = layer.weight.shape
    blocks = torch.ones(-(-outputs // height) * inputs)
    blocks[torch.randperm(len(blocks))[: round(sparsity * len(blocks))]] = 0.0
    mask = blocks.view(-1, inputs).repeat_interleave(height, 0)[:outputs]
    layer.weight.data.masked_fill_(mask == 0, 0.0)
    return layer


def int8(layer: nn.Linear) -> nn.Module:
    """Return the layer with an int8 weight and inputs that are quantized at each call."""
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)[0]


def contenders(layer: nn.Linear, pattern: str) -> dict[str, nn.Module]:
    """Return dense, int8 and every kernel that supports the mask; block kernels get the mask's block height."""
    found: dict[str, nn.Module] = {"dense": layer, "int8": int8(layer)}
    for name in KERNELS.names():
        settings = {"height": PATTERNS[pattern]} if "height" in KERNELS[name].setting_names else {}
        if settings and pattern == ELEMENT:
            continue
        try:
            kernel = KERNELS[name](layer, **settings)
        except UnsuitableLayerError:
            continue
        found[kernel.label] = kernel
    return found


def one_layer(pattern: str, sparsity: float, batch: int, seconds: float) -> Row:
    """Measure one mask at one batch size."""
    layer = prune(nn.Linear(INPUTS, OUTPUTS), sparsity, PATTERNS[pattern]).eval()
    x = torch.randn(batch, INPUTS)
    modules = contenders(layer, pattern)
    rounds = time_interleaved({name: _call(module, x) for name, module in modules.items()}, seconds=seconds)
    best = max(
        (name for name in modules if name not in ("dense", "int8")), key=lambda n: rounds.ratio(n, "dense").median
    )
    return {
        "pattern": pattern,
        "sparsity": sparsity,
        "batch": batch,
        "dense_seconds": asdict(rounds.latency("dense", "cpu")),
        "ratio_to_dense": {name: asdict(rounds.ratio(name, "dense")) for name in modules if name != "dense"},
        "best": best,
        "best_to_int8": asdict(rounds.ratio(best, "int8")),
    }


def lenet() -> nn.Module:
    """Return LeNet-300-100 with 98 % of its connections pruned, the last layer's 90 %."""
    model = lenet_300_100()
    for index, sparsity in ((1, 0.98), (3, 0.98), (5, 0.9)):
        prune(model[index], sparsity, 1)
    return model


def gpt() -> nn.Module:
    """Return a GPT with 70 % of the 32 x 1 blocks of its feed-forward layers pruned."""
    model = GPT()
    for block in model.blocks:
        prune(block.feed_in, 0.7, 32)
        prune(block.feed_out, 0.7, 32)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "LeNet-300-100 at 98 %, batch 1": (lenet, lambda: torch.randn(1, 1, 28, 28)),
    "LeNet-300-100 at 98 %, batch 32": (lenet, lambda: torch.randn(32, 1, 28, 28)),
    "GPT, MLP blocks 32x1 at 70 %, 1 token": (gpt, lambda: torch.randint(65, (1, 1))),
    "GPT, MLP blocks 32x1 at 70 %, 64 tokens": (gpt, lambda: torch.randint(65, (1, 64))),
}
MODEL_AIMS = {"GPT, MLP blocks 32x1 at 70 %, 1 token": 1.5, "GPT, MLP blocks 32x1 at 70 %, 64 tokens": 1.5}


def whole_model(name: str, seconds: float) -> Row:
    """Accelerate a model, then measure it against the dense model again."""
    build, example = MODELS[name]
    model, x = build().eval(), example()
    found = accelerate(model, x, seconds=seconds)
    again = time_interleaved({"dense": _call(model, x), "accelerated": _call(found.model, x)}, seconds=seconds / 4)
    return {
        "model": name,
        "aim": MODEL_AIMS.get(name, 1.0),
        "dense_seconds": asdict(again.latency("dense", "cpu")),
        "ratio": asdict(again.ratio("accelerated", "dense")),
        "kernels": {layer.name: layer.label for layer in found.layers},
    }


def random_mlp(seed: int) -> tuple[nn.Sequential, Tensor]:
    """Return an MLP of random widths, patterns and sparsities, and a batch for it."""
    draw = random.Random(seed)
    widths = [draw.choice(WIDTHS) for _ in range(draw.choice((2, 3, 4)))]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        sparsity = draw.choice((0.0, 0.5, 0.7, 0.9, 0.95, 0.98))
        layers += [prune(nn.Linear(inputs, outputs), sparsity, draw.choice(HEIGHTS)), nn.ReLU()]
    return nn.Sequential(*layers), torch.randn(draw.choice((1, 2, 7, 32)), widths[0])


def random_model(seed: int, seconds: float) -> Row | None:
    """Accelerate a random MLP and measure it against dense again; return None where all of its layers stay dense."""
    model, x = random_mlp(seed)
    found = accelerate(model.eval(), x, seconds=seconds)
    if found.ratio is None:
        return None
    again = time_interleaved({"dense": _call(model, x), "accelerated": _call(found.model, x)}, seconds=seconds / 4)
    kernels = {layer.name: layer.label for layer in found.layers}
    return {"seed": seed, "ratio": asdict(again.ratio("accelerated", "dense")), "kernels": kernels}


def aims(rows: list[Row]) -> list[Row]:
    """Return each aim with the measured value; an aim whose mask was not measured is left out."""
    reached = []
    for pattern, sparsity, batch, base, aim in AIMS:
        for row in rows:
            if (row["pattern"], row["sparsity"], row["batch"]) == (pattern, sparsity, batch):
                ratio = row["ratio_to_dense"][row["best"]] if base == "dense" else row["best_to_int8"]
                met = ratio["median"] >= aim
                case = f"{pattern} at {sparsity:.0%}, batch {batch}, to {base}"
                reached.append({"case": case, "aim": aim, "reached": ratio, "met": met})
    return reached


def layer_table(rows: list[Row], batch: int) -> Table:
    """Return the ratios at one batch size: one row per mask, the best kernel in bold."""
    kernels = ["block", "block_batched", "block_rows", "csr"]
    table = Table(title=f"Linear {INPUTS} -> {OUTPUTS}, batch {batch}: times as fast as dense")
    for heading in ("pattern", "sparsity", "dense us", "int8", *kernels, "best to int8"):
        table.add_column(heading, justify="left" if heading == "pattern" else "right")
    for row in (row for row in rows if row["batch"] == batch):
        cells = {label.split()[0]: (label, ratio) for label, ratio in row["ratio_to_dense"].items()}
        shown = [_cell(*cells[kernel], row["best"]) if kernel in cells else "-" for kernel in ("int8", *kernels)]
        table.add_row(
            row["pattern"],
            f"{row['sparsity']:.0%}",
            f"{row['dense_seconds']['median'] * 1e6:.0f}",
            *shown,
            f"{row['best_to_int8']['median']:.2f}",
        )
    return table


def model_table(models: list[Row]) -> Table:
    """Return the table of whole models against dense."""
    table = Table(title="Whole models, accelerated: times as fast as dense")
    for heading in ("model", "dense us", "ratio (quartiles)", "aim", "kernels"):
        table.add_column(heading, justify="left" if heading in ("model", "kernels") else "right")
    for row in models:
        used = sorted(set(row["kernels"].values()))
        counts = ", ".join(f"{list(row['kernels'].values()).count(kernel)} {kernel}" for kernel in used)
        seconds = f"{row['dense_seconds']['median'] * 1e6:.0f}"
        table.add_row(row["model"], seconds, _spread(row["ratio"]), f"{row['aim']:.1f}", counts)
    return table


def _call(module: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    return lambda: module(x)


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"


def _cell(label: str, ratio: dict[str, float], best: str) -> str:
    return f"[bold]{ratio['median']:.2f}[/bold]" if label == best else f"{ratio['median']:.2f}"


def main() -> None:
    """Run the benchmark from the command line: measure, print the tables, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--short", action="store_true", help="fewer sparsities and rounds")
    options.add_argument("--out", type=Path, default=timing.RESULTS / "kernels.json", help=timing.OUT_HELP)
    chosen = options.parse_args()
    timing.use_one_thread()
    warnings.filterwarnings("ignore", module="torch.*")
    warnings.filterwarnings("ignore", message=".*torch.ao.quantization.*")
    torch.manual_seed(0)
    console = timing.console()
    sparsities = SHORT if chosen.short else SPARSITIES
    rows: list[Row] = []
    models: list[Row] = []
    with torch.no_grad():
        for batch in BATCHES:
            for pattern in PATTERNS:
                for sparsity in sparsities[ELEMENT if pattern == ELEMENT else "block"]:
                    with console.status(f"{pattern} at {sparsity:.0%}, batch {batch}"):
                        rows.append(one_layer(pattern, sparsity, batch, seconds=0.3 if chosen.short else 0.6))
            console.print(layer_table(rows, batch))
        for name in MODELS:
            with console.status(name):
                models.append(whole_model(name, seconds=2.0 if chosen.short else 5.0))
        console.print(model_table(models))
        drawn = range(SHORT_RANDOM_MODELS if chosen.short else RANDOM_MODELS)
        measured = [random_model(seed, seconds=1.0 if chosen.short else 2.0) for seed in drawn]
    accelerated = [row for row in measured if row is not None]
    console.print(f"{len(measured)} random models, {len(accelerated)} of them with kernels in some layers")
    reached = aims(rows)
    if accelerated:
        slowest = min((row["ratio"] for row in accelerated), key=lambda ratio: ratio["median"])
        case = "slowest random model, to dense"
        reached.append({"case": case, "aim": 1.0, "reached": slowest, "met": slowest["median"] >= 1.0})
    for aim in reached:
        said = "met" if aim["met"] else "MISSED"
        console.print(f"{aim['case']}: aim {aim['aim']:g}x, {said} with {_spread(aim['reached'])}")
    timing.write(
        chosen.out,
        question=__doc__.splitlines()[0],
        layers=rows,
        models=models,
        random_models=accelerated,
        aims=reached,
    )
    console.print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
