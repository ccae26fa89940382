"""How much time and memory does an exact global cut take, and is it exact?

    OMP_NUM_THREADS=1 python benchmarks/exact_cut.py   # 1 M, 10 M, 100 M connections: ~20 minutes
    OMP_NUM_THREADS=1 python benchmarks/exact_cut.py --sizes 1e6     # a minute

The weights have the shapes of a transformer. They are pruned globally by magnitude to 50 and 90 % in three cases:
random weights, weights of which 80 % are already zero, and weights with few distinct values, so that most scores tie.
This package runs one whole ``Pruner.update``: scores, cut, new masks, weights set to zero. The comparison is
``torch.nn.utils.prune.global_unstructured`` on the same weights. Both alternate in one process on one thread, timed
by CPU time.

Prints for each size, case and sparsity: the seconds of both, their ratio (median and quartiles over the rounds),
whether the masks equal those of a stable sort of all scores bit for bit, and the bytes per connection that each adds
to peak memory, new masks included, measured in a separate process. Writes the same as JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
from pathlib import Path

import timing
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils import prune

from lightning_dynprune.engine import Pruner
from lightning_dynprune.schedules import OneShot

CASES = ("random", "80 % zeros", "heavy ties")
SPARSITIES = (0.5, 0.9)
AIMS = {10**6: 10, 10**7: 25, 10**8: 40}
AIM_BYTES = 1.5
CONTENDERS = ("dynprune", "global_unstructured")


def shapes(size: int) -> list[tuple[int, int]]:
    """Return layer shapes of a transformer with about ``size`` connections: blocks of four, and a head."""
    depth = 12 if size >= 5 * 10**7 else 8 if size >= 5 * 10**6 else 4
    width = max(16, math.isqrt(size // (12 * depth)) // 16 * 16)
    block = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    head = (size - 12 * depth * width**2) // width
    return block * depth + [(head, width)] * (head > 0)


def weights(size: int, case: str) -> list[Tensor]:
    """Return normally distributed weights, scaled by each layer's fan-in."""
    random = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=random).mul_(shape[1] ** -0.5) for shape in shapes(size)]
    for weight in made:
        if case == "80 % zeros":
            pruned_below = 1.2816 * weight.shape[1] ** -0.5  # 80 % of a normal distribution lies inside
            weight[weight.abs() < pruned_below] = 0
        elif case == "heavy ties":
            level = shapes(size)[0][1] ** -0.5 / 2
            weight.div_(level).round_().mul_(level)
    return made


def model_around(tensors: list[Tensor]) -> nn.Module:
    """Return linear layers that hold these tensors, without a copy."""
    layers = [nn.Linear(tensor.shape[1], tensor.shape[0], bias=False, device="meta") for tensor in tensors]
    for layer, tensor in zip(layers, tensors, strict=True):
        layer.weight = nn.Parameter(tensor)
    return nn.Sequential(*layers)


def cut(contender: str, tensors: list[Tensor], sparsity: float) -> tuple[list[Tensor], float]:
    """Prune with one contender; return its masks and the CPU seconds of the cut alone.

    This package sets the weights in ``tensors`` to zero; torch leaves them and keeps masked copies.
    """
    model = model_around(tensors)
    layers = list(model.children())
    if contender == "dynprune":
        # torch keeps no journal, so the pruner keeps none here.
        schedule = OneShot(sparsity, begin=1)
        pruner = Pruner(model, sparsity=sparsity, strategy="magnitude", schedule=schedule, total_steps=2, journal=False)
        seconds = timing.cpu_seconds(lambda: pruner.update(sparsity))
        return list(pruner.masks.tensors), seconds
    named = [(layer, "weight") for layer in layers]
    seconds = timing.cpu_seconds(
        lambda: prune.global_unstructured(named, pruning_method=prune.L1Unstructured, amount=sparsity)
    )
    return [layer.weight_mask for layer in layers], seconds


def sorted_masks(tensors: list[Tensor], sparsities: tuple[float, ...]) -> dict[float, Tensor]:
    """Return the flat masks from a stable sort of all scores: among equal scores the first are kept."""
    scores = torch.cat([tensor.abs().flatten() for tensor in tensors])
    best_first = torch.sort(scores, stable=True, descending=True).indices
    masks = {}
    for sparsity in sparsities:
        mask = torch.zeros(scores.numel(), dtype=torch.bool)
        mask[best_first[: scores.numel() - round(sparsity * scores.numel())]] = True
        masks[sparsity] = mask
    return masks


def agrees(masks: list[Tensor], expected: Tensor) -> bool:
    """Return whether the masks equal the expected flat mask bit for bit."""
    return all(
        mask.flatten().bool().equal(part)
        for mask, part in zip(masks, expected.split([mask.numel() for mask in masks]), strict=True)
    )


def compare(size: int, case: str, rounds: int) -> list[dict]:
    """Time both contenders on one set of weights, and check their masks."""
    original = weights(size, case)
    connections = sum(tensor.numel() for tensor in original)
    expected = sorted_masks(original, SPARSITIES)
    rows = []
    for sparsity in SPARSITIES:
        exact: dict[str, bool] = {}

        def turn(contender: str) -> float:
            tensors = [tensor.clone() for tensor in original]
            masks, seconds = cut(contender, tensors, sparsity)  # noqa: B023
            if contender not in exact:  # noqa: B023
                exact[contender] = agrees(masks, expected[sparsity])  # noqa: B023
            del masks, tensors
            gc.collect()
            return seconds

        seconds = timing.interleaved(
            {name: lambda name=name: turn(name) for name in CONTENDERS}, rounds, warmup=1 if size < 5e7 else 0
        )
        memory = {
            name: timing.in_own_process(__file__, "--probe", name, str(size), case, str(sparsity))["bytes"]
            for name in CONTENDERS
        }
        rows.append(
            {
                "size": size,
                "connections": connections,
                "case": case,
                "sparsity": sparsity,
                "rounds": rounds,
                "seconds": {name: timing.summary(values) for name, values in seconds.items()},
                "speedup": timing.ratio_summary(seconds["global_unstructured"], seconds["dynprune"]),
                "exact": exact,
                "bytes_a_connection": {name: memory[name] / connections for name in CONTENDERS},
            }
        )
    return rows


def probe(contender: str, size: int, case: str, sparsity: float) -> int:
    """Return the bytes that one cut adds to this process's peak memory, the weights not counted."""
    cut(contender, weights(10**4, case), sparsity)  # loads what the first call loads
    tensors = weights(size, case)
    gc.collect()
    timing.reset_peak()
    before = timing.resident_bytes()
    cut(contender, tensors, sparsity)
    return timing.resident_bytes("VmHWM") - before


def table(rows: list[dict]) -> Table:
    """Return the figures as a table."""
    shown = Table(title="One exact global cut against prune.global_unstructured, CPU time on one thread")
    for heading in ("connections", "weights", "sparsity"):
        shown.add_column(heading)
    for heading in (
        "dynprune, ms",
        "peer, ms",
        "times faster",
        "aim",
        "exact",
        "bytes a connection",
        "peer's",
    ):
        shown.add_column(heading, justify="right")
    for row in rows:
        speedup, seconds, used = row["speedup"], row["seconds"], row["bytes_a_connection"]
        shown.add_row(
            f"{row['connections']:,}",
            row["case"],
            f"{row['sparsity']:.0%}",
            f"{seconds['dynprune']['median'] * 1e3:,.1f}",
            f"{seconds['global_unstructured']['median'] * 1e3:,.0f}",
            f"{speedup['median']:.1f} ({speedup['q1']:.1f}-{speedup['q3']:.1f})",
            str(AIMS.get(row["size"], "-")),
            "yes" if row["exact"]["dynprune"] else "NO",
            f"{used['dynprune']:.2f}",
            f"{used['global_unstructured']:.1f}",
        )
    return shown


def main() -> None:
    """Run the benchmark from the command line: measure, print the table, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--sizes", type=float, nargs="+", default=list(AIMS), help="numbers of connections (default: 1e6 1e7 1e8)"
    )
    options.add_argument("--rounds", type=int, help="rounds of each comparison (default: 15, 7 and 3, by size)")
    options.add_argument("--out", type=Path, default=timing.RESULTS / "exact_cut.json", help=timing.OUT_HELP)
    options.add_argument("--probe", nargs=4, metavar=("CONTENDER", "SIZE", "CASE", "SPARSITY"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    timing.use_one_thread()
    if chosen.probe:
        contender, size, case, sparsity = chosen.probe
        print(json.dumps({"bytes": probe(contender, int(size), case, float(sparsity))}))
        return
    console = timing.console()
    rows: list[dict] = []
    for size in map(int, chosen.sizes):
        rounds = chosen.rounds or (15 if size <= 2 * 10**6 else 7 if size < 5 * 10**7 else 3)
        for case in CASES:
            with console.status(f"{size:,} connections, {case}"):
                rows += compare(size, case, rounds)
    console.print(table(rows))
    timing.write(chosen.out, question=__doc__.splitlines()[0], aims={"speedup": AIMS, "bytes": AIM_BYTES}, rows=rows)
    console.print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
