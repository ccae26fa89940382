"""What a job of a sweep leaves behind: ``results.json``, ``error.json`` and ``dense.json``, and the report on them."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from lightning_dynprune.app.runs import dense_file
from lightning_dynprune.app.sweeps import read_jobs
from lightning_dynprune.app.tasks.dense_baseline import _read
from lightning_dynprune.report import draw_pareto, sweep_table, write_summary

ACCEPTED = (ValueError,)
KEY = "0123456789abcdef"


def seeds(folder: Path) -> dict[str, bytes]:
    """Return files as they should be; the first byte says which of the three it is."""
    shares = {"accuracy": 0.9, "val_accuracy": 0.9, "dense_accuracy": 0.95, "dense_val_accuracy": None}
    shares |= {"sparsity": 0.8, "target_sparsity": 0.8}
    results = {**shares, "nonzero": 20, "parameters": 100, "compression": 5.0, "seed": 1, "overrides": ["a=[b]$"]}
    error = {"error": "ValueError: [red]x[/red]", "overrides": ["strategy=x"], "traceback": "..."}
    control = {"key": KEY, "accuracy": 0.9, "val_accuracy": 0.9, "seconds": 1.0, "bytes": 10, "val_curve": [[1, 0.5]]}
    contents = {"results": results, "error": error, "dense": control}
    return {name: f"{i}{json.dumps(content)}".encode() for i, (name, content) in enumerate(contents.items())}


def read(data: bytes, folder: Path) -> bool:
    """Report on a sweep of one job that left the bytes."""
    job = folder / "0"
    (job / ".hydra").mkdir(parents=True, exist_ok=True)
    (job / ".hydra" / "overrides.yaml").touch()
    names = ("results.json", "error.json", "dense.json")
    for name in names:
        (job / name).unlink(missing_ok=True)
    name = names[data[0] % 3] if data else names[0]
    (job / name).write_bytes(data[1:])
    if name == "dense.json":
        dense_file(job)
        try:
            return _read(job / name, KEY) is not None
        except ACCEPTED:
            return False
    rows = read_jobs(folder)
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    console.print(sweep_table(rows, folder))
    write_summary(rows, folder / "summary.csv")
    if rows[0].results is not None and len(data) % 16 == 0:
        draw_pareto(rows, folder / "pareto.png")
    return rows[0].results is not None or bool(rows[0].overrides)
