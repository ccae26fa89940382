"""How much time and memory does pruning add to a training step?

    OMP_NUM_THREADS=1 python benchmarks/step_overhead.py  # ~15 minutes
    OMP_NUM_THREADS=1 python benchmarks/step_overhead.py --quick  # LeNet-300-100, few rounds: two minutes

Every contender trains the same network by a Lightning ``Trainer`` with a CSV logger. The weights are pruned to 90 %
after the first steps, before measuring starts. Contenders: no pruning (the base), no pruning again (the control),
``DynamicPruning`` with its default strategy and logging, ``DynamicPruning`` with ``magnitude``, which observes no
steps, ``torch.nn.utils.prune``, Lightning's ``ModelPruning`` and ``torch.ao.pruning``. All trainers share one
process; each has a thread that waits in its data iterator until it may take a few steps. So contenders alternate, one
thread runs at a time, and CPU time is counted.

Prints tables and writes JSON: the time of a step between updates, relative to the base (median and quartiles over the
rounds); the time of a whole run with the default schedule, by both strategies, relative to a run without pruning; and
the bytes per connection that a contender adds to peak resident memory, in training and at set-up, each run in its own
process.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timing
import torch
from contenders import BASE, CONTENDERS, SPARSITY, WARM_STEPS, named_weights, nothing, zeros
from models import WORKLOADS, Plain
from rich.table import Table
from turns import Training, trainer

from lightning_dynprune import DynamicPruning

LENET, GPT, MLP = WORKLOADS
AIMS = {LENET: 1.03, GPT: 1.01, "bytes a connection": 1.3}


@dataclass(frozen=True)
class Plan:
    """Steps, turns and rounds of a workload; turns are short against drift, a block contains a logging step."""

    steps: int  # of a turn
    turns: int  # of a block; ratios are those of blocks
    blocks: int
    run: int  # steps of a whole run
    runs: int


PLANS = {LENET: Plan(10, 5, 60, 3000, 5), GPT: Plan(1, 2, 20, 150, 1)}
QUICK = {LENET: Plan(10, 5, 10, 3000, 1)}


def between_updates(name: str, plan: Plan) -> dict[str, dict]:
    """Time the steps of all contenders, already pruned, in alternation."""
    with tempfile.TemporaryDirectory() as folder:
        running = {
            contender: Training(WORKLOADS[name], prepare, plan.steps, folder)
            for contender, prepare in CONTENDERS.items()
        }
        for training in running.values():
            training.turn()  # set-up and the short epoch
        turns = {key: training.turn for key, training in running.items()}
        seconds = timing.interleaved(turns, plan.turns * plan.blocks, warmup=2 * plan.turns)
        shares = {key: zeros(training.network) for key, training in running.items()}
        for training in running.values():
            training.finish()
    blocks = {key: timing.added_up(values, plan.turns) for key, values in seconds.items()}
    return {
        key: {
            "step_seconds": timing.summary([value / (plan.steps * plan.turns) for value in values]),
            "ratio": timing.ratio_summary(values, blocks[BASE]),
            "zeros": shares[key],
        }
        for key, values in blocks.items()
    }


WHOLE_RUNS = {
    BASE: nothing,
    "DynamicPruning": lambda network: [DynamicPruning(SPARSITY)],
    "DynamicPruning, magnitude": lambda network: [DynamicPruning(SPARSITY, "magnitude")],
}


def whole_run(name: str, plan: Plan) -> dict[str, Any]:
    """Time whole runs with ``DynamicPruning(sparsity=0.9)``, by both strategies, and runs without pruning."""
    totals: dict[str, list[float]] = {key: [] for key in WHOLE_RUNS}
    for _ in range(plan.runs):
        with tempfile.TemporaryDirectory() as folder:
            running = {
                key: Training(WORKLOADS[name], prepare, plan.steps, folder, plan.run)
                for key, prepare in WHOLE_RUNS.items()
            }
            spent = dict.fromkeys(WHOLE_RUNS, 0.0)
            while not all(training.is_done for training in running.values()):
                for key, training in running.items():
                    if not training.is_done:
                        spent[key] += training.turn()
            for key in WHOLE_RUNS:
                totals[key].append(spent[key])
            reached = {key: zeros(training.network) for key, training in running.items()}
        gc.collect()
    return {
        "steps": plan.run,
        "runs": plan.runs,
        "contenders": {
            key: {
                "ratio": timing.ratio_summary(values, totals[BASE]),
                "seconds": timing.summary(values),
                "zeros": reached[key],
            }
            for key, values in totals.items()
        },
    }


def probe(contender: str) -> dict[str, int]:
    """Train the wide MLP in this process; return peak resident memory at set-up and in training."""
    peaks: dict[str, int] = {}
    workload = WORKLOADS[MLP]

    def batches() -> Iterator[Any]:
        for _ in range(WARM_STEPS):
            yield batch
        if not peaks:
            peaks["setup"] = 0
            return
        yield batch
        peaks["setup"] = timing.resident_bytes("VmHWM")
        timing.reset_peak()
        for _ in range(6):
            yield batch
        peaks["training"] = timing.resident_bytes("VmHWM")

    torch.manual_seed(0)
    network, batch = workload.network(), workload.batch()
    callbacks = CONTENDERS[contender](network)
    with tempfile.TemporaryDirectory() as folder:
        trainer(folder, callbacks).fit(Plain(network, workload, batches))
    return peaks


def memory(repeats: int) -> dict[str, dict]:
    """Return the peak memory that each contender adds to the base, in bytes per connection."""
    connections = sum(layer.weight.numel() for layer, _ in named_weights(WORKLOADS[MLP].network()))
    peaks: dict[str, dict[str, list[int]]] = {name: {"training": [], "setup": []} for name in CONTENDERS}
    for _ in range(repeats):
        for name in CONTENDERS:
            for phase, peak in timing.in_own_process(__file__, "--probe", name).items():
                peaks[name][phase].append(peak)
    return {
        name: {
            phase: timing.summary(
                [(mine - base) / connections for mine, base in zip(values, peaks[BASE][phase], strict=True)]
            )
            for phase, values in phases.items()
        }
        for name, phases in peaks.items()
    }


def _spread(values: dict[str, float], digits: int = 3) -> str:
    return f"{values['median']:.{digits}f} ({values['q1']:.{digits}f}-{values['q3']:.{digits}f})"


def tables(steps: dict[str, dict], runs: dict[str, dict], used: dict[str, dict]) -> list[Table]:
    """Return the figures as tables."""
    shown = []
    for name, contenders in steps.items():
        table = Table("contender", title=f"A step between updates, masks at 90 %: {name} (aim {AIMS[name]}x)")
        for heading in ("ms a step", "over no pruning", "zeros"):
            table.add_column(heading, justify="right")
        for key, row in contenders.items():
            table.add_row(
                key,
                f"{row['step_seconds']['median'] * 1e3:.2f}",
                _spread(row["ratio"]),
                f"{row['zeros']:.2%}",
            )
        shown.append(table)
    for name, run in runs.items():
        table = Table(
            "contender", title=f"A whole run of {run['steps']} steps to {SPARSITY:.0%}, updates and all: {name}"
        )
        for heading in ("seconds", "over no pruning", "zeros at the end"):
            table.add_column(heading, justify="right")
        for key, row in run["contenders"].items():
            table.add_row(key, f"{row['seconds']['median']:.1f}", _spread(row["ratio"]), f"{row['zeros']:.2%}")
        shown.append(table)
    aim = AIMS["bytes a connection"]
    table = Table("contender", title=f"Peak memory added, bytes a connection: {MLP} (aim {aim} while training)")
    for heading in ("while training", "at set-up and update"):
        table.add_column(heading, justify="right")
    for name, row in used.items():
        table.add_row(name, _spread(row["training"], 2), _spread(row["setup"], 2))
    return [*shown, table]


def main() -> None:
    """Run the benchmark from the command line: measure, print the tables, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="only LeNet-300-100, few rounds")
    options.add_argument("--out", type=Path, default=timing.RESULTS / "step_overhead.json", help=timing.OUT_HELP)
    options.add_argument("--probe", choices=CONTENDERS, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    timing.use_one_thread()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*|torch.ao.*")
    if chosen.probe:
        print(json.dumps(probe(chosen.probe)))
        return
    console = timing.console()
    plans = QUICK if chosen.quick else PLANS
    with console.status("memory, each contender in its own process"):
        used = memory(repeats=1 if chosen.quick else 3)
    steps, runs = {}, {}
    for name, plan in plans.items():
        with console.status(f"steps of {name}"):
            steps[name] = between_updates(name, plan)
        with console.status(f"whole runs of {name}"):
            runs[name] = whole_run(name, plan)
    for table in tables(steps, runs, used):
        console.print(table)
    timing.write(
        chosen.out,
        question=__doc__.splitlines()[0],
        aims=AIMS,
        between_updates=steps,
        whole_run=runs,
        memory_bytes_a_connection=used,
    )
    console.print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
