"""Do memory use and time per update stay constant in a long training?

    OMP_NUM_THREADS=1 python benchmarks/endurance.py  # 20,000 updates of each strategy: about three minutes

A small network is trained with an update of its masks after every step. Three strategies are measured, each in its
own process: one with hard masks, one that lets connections return, and one with latent weights. The benchmark records
resident memory, the blocks that Python has allocated (``sys.getallocatedblocks``) and the size of the pruning state
in a checkpoint, with its journal, after 1,000, 5,000, 10,000 and 20,000 updates; and the CPU time of an update, as
the medians of the first and the last thousand. The journal keeps the last 1,000 updates, so it has its full size at
the first mark.

Then one process runs 20 short trainings by a Lightning ``Trainer``, with ``DynamicPruning`` and without, and records
what memory each of them leaves behind. Garbage is collected between trainings: a Trainer and its module refer to each
other, with or without pruning, and Python seldom looks for such cycles in a process with many objects.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import logging
import sys
import time
import warnings
from array import array
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import timing
import torch
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynprune import DynamicPruning
from lightning_dynprune.engine import Pruner

# Kind of strategy -> strategy and schedule; each updates after every step.
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "hard masks": ({"name": "magnitude"}, "cubic"),
    "returning": ({"name": "rigl", "exchange": 0.3}, "constant"),
    "latent weights": ({"name": "straight_through"}, "cubic"),
}
MARKS = (0.05, 0.25, 0.5, 1.0)
FITS = (2, 5, 10, 20)
COMPARED = 0.05  # share of the updates at either end whose times are compared


def network() -> nn.Module:
    """Return a small network of 4,736 connections."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def endure(kind: str, updates: int) -> dict[str, Any]:
    """Train with an update after every step; return what was measured at each mark, and the times."""
    strategy, schedule = KINDS[kind]
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-3)
    pruner = Pruner(
        net,
        optimizer,
        sparsity=0.9,
        strategy=strategy,
        schedule={"name": schedule, "begin": 1, "end": updates, "every": 1},
        total_steps=updates,
    )
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(256, 64, generator=generator), torch.randint(10, (256,), generator=generator)
    marks = {max(int(share * updates), 1) for share in MARKS}
    rows, seconds = {}, array("d")
    for step in range(1, updates + 1):
        chosen = torch.randint(256, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[chosen]), labels[chosen]).backward()
        optimizer.step()
        began = time.process_time_ns()
        pruner.tick()
        seconds.append((time.process_time_ns() - began) / 1e9)
        if step in marks:
            rows[step] = measured(pruner)
    few = max(int(COMPARED * updates), 1)
    first, last = (timing.summary(part)["median"] for part in (seconds[:few], seconds[-few:]))
    return {
        "updates": pruner.updates,
        "marks": rows,
        "seconds": {"first": first, "last": last, "ratio": last / first, "of": few},
    }


def measured(pruner: Pruner) -> dict[str, float]:
    """Return the current memory use and state size of a run, without the figures collected so far."""
    assert pruner.journal is not None
    file = io.BytesIO()
    torch.save(pruner.state_dict(), file)
    size = len(file.getvalue())
    del file
    gc.collect()
    return {
        "resident_bytes": timing.resident_bytes(),
        "python_blocks": sys.getallocatedblocks(),
        "state_bytes": size,
        "journal_updates": len(pruner.journal.updates),
        "journal_bits": pruner.journal.bits,
    }


class Module(L.LightningModule):
    """LeNet-300-100 on random images."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters())


def fit_often(pruning: bool, fits: int) -> dict[str, Any]:
    """Fit repeatedly in this process; return resident memory and the number of live tensors after some of the fits."""
    data = TensorDataset(torch.randn(256, 784), torch.randint(10, (256,)))
    rows = {}
    for number in range(1, fits + 1):
        L.Trainer(
            max_epochs=2,
            accelerator="cpu",
            callbacks=[DynamicPruning(0.9)] if pruning else [],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Module(), DataLoader(data, batch_size=32))
        gc.collect()
        if number in FITS:
            alive = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
            rows[number] = {"resident_bytes": timing.resident_bytes(), "tensors": alive}
    return rows


def tables(kinds: dict[str, dict], fits: dict[str, dict]) -> list[Table]:
    """Return the figures as tables."""
    held = Table("strategy", title="What a training holds")
    for heading in ("updates", "resident MiB", "Python blocks", "state KiB", "journal: updates", "bits a connection"):
        held.add_column(heading, justify="right")
    for kind, found in kinds.items():
        for step, row in found["marks"].items():
            held.add_row(
                kind,
                f"{int(step):,}",
                f"{row['resident_bytes'] / 2**20:.1f}",
                f"{row['python_blocks']:,}",
                f"{row['state_bytes'] / 2**10:.0f}",
                f"{row['journal_updates']:,}",
                f"{row['journal_bits']:.2f}",
            )
    spent = Table("strategy", title="CPU time of an update, medians")
    for heading in ("first, ms", "last, ms", "last over first"):
        spent.add_column(heading, justify="right")
    for kind, found in kinds.items():
        seconds = found["seconds"]
        spent.add_row(kind, f"{seconds['first'] * 1e3:.2f}", f"{seconds['last'] * 1e3:.2f}", f"{seconds['ratio']:.2f}")
    stays = Table("fits in one process", title="What stays behind of a fit")
    for name in fits:
        stays.add_column(f"{name}: resident MiB", justify="right")
        stays.add_column("tensors", justify="right")
    for number in next(iter(fits.values())):
        cells = [
            cell
            for rows in fits.values()
            for cell in (f"{rows[number]['resident_bytes'] / 2**20:.1f}", str(rows[number]["tensors"]))
        ]
        stays.add_row(number, *cells)
    return [held, spent, stays]


def main() -> None:
    """Run the benchmark from the command line: measure, print the tables, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--updates", type=int, default=20_000, help="updates of each strategy (default: 20,000)")
    options.add_argument("--out", type=Path, default=timing.RESULTS / "endurance.json", help=timing.OUT_HELP)
    options.add_argument("--probe", choices=[*KINDS, "with DynamicPruning", "without"], help=argparse.SUPPRESS)
    chosen = options.parse_args()
    timing.use_one_thread()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if chosen.probe in KINDS:
        print(json.dumps(endure(chosen.probe, chosen.updates)))
        return
    if chosen.probe:
        print(json.dumps(fit_often(chosen.probe != "without", max(FITS))))
        return
    console = timing.console()
    kinds, fits = {}, {}
    for kind in KINDS:
        with console.status(f"{chosen.updates:,} updates, {kind}"):
            kinds[kind] = timing.in_own_process(__file__, "--probe", kind, "--updates", str(chosen.updates))
    for name in ("with DynamicPruning", "without"):
        with console.status(f"fits {name}"):
            fits[name] = timing.in_own_process(__file__, "--probe", name)
    for table in tables(kinds, fits):
        console.print(table)
    timing.write(chosen.out, question=__doc__.splitlines()[0], endured=kinds, fits=fits)
    console.print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
