"""The record of a sweep, ``sweep.json``: the command that continues the sweep, and its jobs."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_dynprune.app.runs import ResumeError
from lightning_dynprune.app.sweeps import SweepRecord, continue_sweep, read_jobs

ACCEPTED = (ValueError, ResumeError)


def seeds(folder: Path) -> dict[str, bytes]:
    """Return files as they should be."""
    jobs = [["sparsity=0.5", "seed=1"], ["sparsity=0.9", "seed=1"]]
    records = {
        "basic": SweepRecord(["sparsity=0.5,0.9", "seed=1"], [], jobs),
        "optuna": SweepRecord(["sparsity=interval(0,0.9)"], [], None),
    }
    written = {}
    for name, record in records.items():
        (folder / "sweep.json").unlink(missing_ok=True)
        record.write(folder)
        written[name] = (folder / "sweep.json").read_bytes()
    # A record of an older release has another version.
    return {name: json.dumps({**json.loads(data), "version": "0.1.0"}).encode() for name, data in written.items()}


def read(data: bytes, folder: Path) -> bool:
    """Continue the sweep and list its jobs."""
    (folder / "sweep.json").write_bytes(data)
    read_jobs(folder, ended=False)
    try:
        SweepRecord.read(folder)
        continue_sweep([f"sweep.resume={folder}"])
    except ACCEPTED as error:
        return "interval" in str(error)  # of a sweeper that draws, whose overrides are typed again
    return True
