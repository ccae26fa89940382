"""The dense baseline: the same network trained without pruning, by the same code, data and seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_dynprune.app.data import InMemoryImages
from lightning_dynprune.app.interrupt import StopRequest
from lightning_dynprune.app.runs import RunFolder, read_dense_record, wait_for_lock
from lightning_dynprune.app.tasks.training_phase import train_phase
from lightning_dynprune.base import write_json
from lightning_dynprune.deploy.compact import write_dense

# The settings that a dense training depends on; the folder of the data is none of them.
DEPENDS_ON = ("model", "data", "optimizer", "lr_schedule", "lr_hold", "trainer", "seed", "threads")


def get_dense_baseline(cfg: DictConfig, data: InMemoryImages, folder: RunFolder, stop: StopRequest) -> dict[str, Any]:
    """Return the figures of the dense baseline; train it unless this run or its sweep already has.

    Args:
        cfg: the run's settings.
        data: the image set.
        folder: the run's folder; in a sweep, all jobs with equal dense settings share one baseline.
        stop: set by Ctrl-C.

    Returns:
        ``accuracy``, ``val_accuracy``, ``seconds``, ``val_curve`` and ``bytes`` of its weights on disk.
    """
    key = baseline_key(folder.config)
    if (found := _read(folder.dense_record, key)) is not None:
        return found
    if folder.sweep is None:
        figures = _train(key, cfg, data, folder, stop, folder.dense_record.with_suffix(".safetensors"))
    else:
        figures = _get_shared(key, cfg, data, folder, stop, folder.sweep / "dense" / f"{key}.json")
    write_json(folder.dense_record, figures)
    return figures


def _get_shared(
    key: str, cfg: DictConfig, data: InMemoryImages, folder: RunFolder, stop: StopRequest, record: Path
) -> dict[str, Any]:
    """Return the figures of the baseline that a sweep's jobs share; jobs that run at once wait for the one training."""
    record.parent.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(record.with_suffix(".lock")):
        if (found := _read(record, key)) is not None:
            return found
        figures = _train(key, cfg, data, folder, stop, record.with_suffix(".safetensors"))
        write_json(record, figures)
        return figures


def _train(
    key: str, cfg: DictConfig, data: InMemoryImages, folder: RunFolder, stop: StopRequest, weights: Path
) -> dict[str, Any]:
    """Train the baseline, write its weights and return its figures."""
    phase = train_phase("dense", cfg, data, folder, stop)
    return {
        "key": key,
        "accuracy": phase.accuracy,
        "val_accuracy": phase.val_accuracy,
        "seconds": phase.seconds,
        "test_seconds": phase.test_seconds,
        "val_curve": phase.curves["val_accuracy"],
        "bytes": write_dense(phase.weights, weights),
    }


def baseline_key(config: dict[str, Any]) -> str:
    """Return a short hash that is equal for two runs exactly if their dense baselines are equal."""
    relevant = {name: config[name] for name in DEPENDS_ON}
    relevant["data"] = {name: value for name, value in config["data"].items() if name != "data_dir"}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


def _read(record: Path, key: str) -> dict[str, Any] | None:
    if not record.exists():
        return None
    try:
        return read_dense_record(record, key)
    except ValueError as error:
        raise ValueError(f"{record.parent}: {error}; move it away to have the dense baseline trained again") from error
