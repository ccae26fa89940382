"""How many messages and bytes, and how much time, does an update take when several processes train one model?

    OMP_NUM_THREADS=1 python benchmarks/scaling.py  # 1, 10 and 100 M connections, 1 to 4 processes: ~40 minutes, 8 GB
    OMP_NUM_THREADS=1 python benchmarks/scaling.py --quick  # 1 M connections, 1 and 2 processes: half a minute

A model with the shapes of a transformer is pruned by magnitude and by RigL with a global cut, and by RigL with its
default (erk), which cuts each target by itself. The processes communicate over gloo on this machine; each holds the
whole model, as under DDP, or a shard of every weight, as under ``fully_shard`` (FSDP2). One whole ``Pruner.update``
is timed; gradients are random.

Messages are counted in the first update, from dense to 50 %: calls of a collective, and the bytes that one process
passes to them (payload). On a ring a process sends about twice that for a sum, and for a gather its part to all
processes but one. The counts are compared with a formula, which then gives the messages and memory of 1,000 processes
and 100 G connections: computed, not measured.

Time is measured over five more updates, up to 90 %: wall-clock and CPU seconds of a process, the median over the
updates for the slowest process. With more processes than cores the wall-clock time contains waiting; CPU seconds show
the work of a process. Prints tables and writes JSON.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import tempfile
import time
from dataclasses import asdict
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import exact_cut
import projection
import timing
import torch
import torch.distributed as dist
from messages import Meter, Traffic
from rich.table import Table
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import start_processes

from lightning_dynprune.distributed import Shard, local_part
from lightning_dynprune.engine import Pruner

SIZES, PROCESSES = (10**6, 10**7, 10**8), (1, 2, 3, 4)
RIGL = {"name": "rigl", "exchange": 0.3}
STRATEGIES = {  # name -> strategy and scope
    "magnitude": ({"name": "magnitude"}, "global"),
    "rigl": (RIGL, "global"),
    "rigl, erk": (RIGL, "erk"),
}
LAYOUTS = {"DDP": False, "FSDP2": True}
FIRST, REST = 0.5, (0.6, 0.7, 0.8, 0.85, 0.9)
FAR = projection.Case(ranks=1000, connections=10**11, targets=700, here=10**8, in_parts=True)


def network(size: int, in_parts: bool, with_gradients: bool) -> nn.Module:
    """Return one process's part of the model; weights and gradients do not depend on the number of processes."""
    model = exact_cut.model_around(exact_cut.weights(size, "random"))
    if in_parts:
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    random = torch.Generator().manual_seed(1)
    for parameter in model.parameters() if with_gradients else ():
        grad = torch.randn(parameter.shape, generator=random)
        shard = Shard.from_tensor(parameter) if in_parts else None
        parameter.grad = grad if shard is None else shard.as_dtensor(shard.local_box(grad).clone())
    return model


def measured(size: int, strategy: str, layout: str, rest: tuple[float, ...] = REST) -> dict[str, Any]:
    """Count the messages and time the updates of one case in this process."""
    ranks = dist.get_world_size()
    chosen, scope = STRATEGIES[strategy]
    model = network(size, LAYOUTS[layout], chosen is RIGL)
    targets = list(model.parameters())
    gc.collect()
    settings = {"strategy": chosen, "threshold": {"name": "topk", "scope": scope}, "journal": False}
    pruner = Pruner(model, sparsity=0.95, total_steps=10, **settings)
    pruner.clock.step = 1  # RigL exchanges nothing before the first step
    with Meter(ranks) as update:
        pruner.update(FIRST)
    clock, cpu = [], []
    for sparsity in rest:
        dist.barrier()
        started = time.perf_counter()
        cpu.append(timing.cpu_seconds(lambda sparsity=sparsity: pruner.update(sparsity)))
        clock.append(time.perf_counter() - started)
    with Meter(ranks) as checkpoint:
        masks = pruner.state_dict()["masks"]
    digest = hashlib.blake2b(digest_size=8)
    for mask in masks.values():
        digest.update(mask.numpy().tobytes())
    parts = [local_part(parameter).numel() for parameter in targets]
    return {
        "connections": sum(parameter.numel() for parameter in targets),
        "targets": len(targets),
        "here": sum(parts),
        "update": {what: asdict(traffic) for what, traffic in update.traffic.items()},
        "checkpoint": {what: asdict(traffic) for what, traffic in checkpoint.traffic.items()},
        "clock_seconds": timing.summary(clock)["median"],
        "cpu_seconds": timing.summary(cpu)["median"],
        "masks": digest.hexdigest(),
    }


def _process(rank: int, size: int, folder: str, cases: list[tuple[int, str, str]], rest: tuple[float, ...]) -> None:
    """Measure all cases in one process, and write them to the folder."""
    timing.use_one_thread()
    store = dist.FileStore(f"{folder}/group", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(minutes=10))
    rows = [measured(*case, rest) for case in cases]
    Path(folder, f"{rank}.json").write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


def group(processes: int, cases: list[tuple[int, str, str]], rest: tuple[float, ...] = REST) -> list[dict[str, Any]]:
    """Measure cases (connections, strategy, layout) with this many processes; return one row per case."""
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_process, (processes, folder, cases, rest), nprocs=processes, start_method="fork")
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)]
    return [row(processes, *case, list(of_each)) for case, of_each in zip(cases, zip(*found, strict=True), strict=True)]


def row(processes: int, size: int, strategy: str, layout: str, of_each: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the measurements of one case as one row, compared with the formula."""
    first = of_each[0]
    largest = max(one["here"] for one in of_each)
    case = projection.Case(processes, first["connections"], first["targets"], largest, LAYOUTS[layout])
    worst = {name: max(one[name] for one in of_each) for name in ("clock_seconds", "cpu_seconds")}
    return {
        "size": size,
        "strategy": strategy,
        "layout": layout,
        "processes": processes,
        **{name: first[name] for name in ("connections", "targets", "update", "checkpoint")},
        "here": largest,
        **worst,
        "masks": sorted({one["masks"] for one in of_each}),
        "as_computed": as_computed(case, strategy, first["update"]),
    }


def as_computed(case: projection.Case, strategy: str, counted: dict[str, dict[str, float]]) -> bool:
    """Return whether the counted messages and bytes equal those of the formula.

    Where the formula is an upper bound, fewer bytes are accepted: samples from some of the units, and cuts by target.
    """
    passes = int(counted.get("counts of the bracket", {}).get("messages", 0)) or None
    ties = int(counted.get("places of ties", {}).get("messages", 0))
    expected = projection.update(case, strategy, passes, ties)
    if counted.keys() != expected.keys():
        return False
    found = {what: (traffic["messages"], traffic["payload"]) for what, traffic in counted.items()}
    if any(found[what][0] != traffic.messages for what, traffic in expected.items()):
        return False
    at_most = set(expected) if strategy in projection.BY_TARGET else {"sample"} if strategy == "rigl" else set()
    return all(
        found[what][1] <= traffic.payload if what in at_most else found[what][1] == traffic.payload
        for what, traffic in expected.items()
    )


def time_table(rows: list[dict[str, Any]]) -> Table:
    """Return the table of time and messages per update, one row per case, with the result of the checks.

    The checks: messages and bytes equal the formula, and the final masks equal those of one process bit for bit.
    """
    table = Table(title=f"One update (median of {len(REST)}), {os.cpu_count()} cores, one thread a process, gloo")
    for heading in ("size", "strategy", "layout"):
        table.add_column(heading, no_wrap=True)
    headings = ("ranks", "s", "over one", "CPU s each", "over one", "messages", "sent", "formula", "masks")
    for heading in headings:
        table.add_column(heading, justify="right")
    alone = {(r["size"], r["strategy"], r["layout"]): r for r in rows if r["processes"] == 1}
    for r in rows:
        one = alone[r["size"], r["strategy"], r["layout"]]
        sent = total(r["update"])
        table.add_row(
            f"{r['connections'] / 1e6:.0f} M",
            r["strategy"],
            r["layout"],
            str(r["processes"]),
            f"{r['clock_seconds']:.3f}",
            f"{r['clock_seconds'] / one['clock_seconds']:.2f}",
            f"{r['cpu_seconds']:.3f}",
            f"{r['cpu_seconds'] / one['cpu_seconds']:.2f}",
            str(sent.messages),
            as_bytes(sent.payload),
            "yes" if r["as_computed"] else "NO",
            "yes" if r["masks"] == one["masks"] else "NO",
        )
    return table


def total(traffic: dict[str, dict[str, float]]) -> Traffic:
    """Return the sum over all purposes."""
    return Traffic(
        sum(int(t["messages"]) for t in traffic.values()),
        sum(int(t["payload"]) for t in traffic.values()),
        sum(t["moved"] for t in traffic.values()),
    )


def purpose_table(title: str, columns: dict[str, dict[str, dict[str, float]]]) -> Table:
    """Return the table of messages and bytes by purpose, three columns per case."""
    table = Table("what for", title=title)
    for name in columns:
        table.add_column(name, justify="right")
        table.add_column("sent", justify="right")
        table.add_column("by ring", justify="right")
    whats = list(dict.fromkeys(what for traffic in columns.values() for what in traffic))
    sums = {name: asdict(total(traffic)) for name, traffic in columns.items()}
    for what in [*whats, "all"]:
        cells = []
        for name, traffic in columns.items():
            found = sums[name] if what == "all" else traffic.get(what)
            cells += ["-"] * 3 if found is None else [
                str(found["messages"]), as_bytes(found["payload"]), as_bytes(found["moved"])
            ]  # fmt: skip
        table.add_row(what, *cells)
    return table


def memory_table(case: projection.Case, strategies: tuple[str, ...]) -> Table:
    """Return the table of the bytes that a process holds for pruning, by strategy."""
    table = Table("what is held", title=f"Memory of one process, computed, not measured: {title_of(case)}")
    for strategy in strategies:
        table.add_column(strategy, justify="right")
    holdings = [projection.held(case, strategy) for strategy in strategies]
    for what in holdings[0]:
        table.add_row(what, *(as_bytes(holding[what]) for holding in holdings))
    return table


def title_of(case: projection.Case) -> str:
    """Return the description of a case."""
    return f"{case.ranks:,} processes, {case.connections:,} connections in {case.targets} targets, FSDP2"


def as_bytes(count: float) -> str:
    """Return a number of bytes with a decimal unit.

    Example:
        >>> as_bytes(8), as_bytes(524288), as_bytes(12.5e9)
        ('8 B', '524 kB', '12.5 GB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def main() -> None:
    """Run the benchmark from the command line: measure, print the tables, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="only 1 M connections, 1 and 2 processes")
    options.add_argument("--sizes", type=float, nargs="+", help="numbers of connections (default: 1e6 1e7 1e8)")
    options.add_argument("--out", type=Path, default=timing.RESULTS / "scaling.json", help=timing.OUT_HELP)
    chosen = options.parse_args()
    sizes = [int(size) for size in chosen.sizes or (SIZES[:1] if chosen.quick else SIZES)]
    console = timing.console()
    rows: list[dict[str, Any]] = []
    for size, layout, processes in product(sizes, LAYOUTS, PROCESSES[:2] if chosen.quick else PROCESSES):
        with console.status(f"{size:,} connections, {layout}, {processes} processes"):
            rows += group(processes, [(size, strategy, layout) for strategy in STRATEGIES])
    rows.sort(key=lambda r: (r["size"], r["strategy"], r["layout"], r["processes"]))
    console.print(time_table(rows))
    last = {
        r["strategy"]: r["update"] | r["checkpoint"]
        for r in rows
        if r["size"] == sizes[-1] and r["processes"] == rows[-1]["processes"] and r["layout"] == "FSDP2"
    }
    most = f"{rows[-1]['processes']} processes, {rows[-1]['connections']:,} connections"
    console.print(purpose_table(f"Messages of one process, counted: {most}, FSDP2", last))
    far = {
        strategy: {what: asdict(traffic) for what, traffic in projection.update(FAR, strategy).items()}
        for strategy in STRATEGIES
    }
    console.print(purpose_table(f"Messages of one process, computed, not measured: {title_of(FAR)}", far))
    console.print(memory_table(FAR, tuple(projection.STATE)))
    timing.write(
        chosen.out,
        question=__doc__.splitlines()[0],
        rows=rows,
        projection={
            "case": asdict(FAR),
            "update": far,
            "held_bytes": {strategy: projection.held(FAR, strategy) for strategy in projection.STATE},
        },
    )
    console.print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
