"""``dynprune task=train``: load the data, train the dense baseline and the pruned network, write files and a table."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from lightning_dynprune import DynamicPruning, __version__
from lightning_dynprune.app.data import InMemoryImages
from lightning_dynprune.app.interrupt import StopRequest
from lightning_dynprune.app.runs import RunFolder, dense_file, load_weights, lock_run_folder
from lightning_dynprune.app.tasks.adaptive_pruning import adaptive_figures, new_adaptive
from lightning_dynprune.app.tasks.dense_baseline import get_dense_baseline
from lightning_dynprune.app.tasks.pruning_settings import check_pruning, new_pruning
from lightning_dynprune.app.tasks.training_phase import Phase, new_classifier, train_phase
from lightning_dynprune.base import write_json
from lightning_dynprune.deploy.compact import save_compact, write_dense
from lightning_dynprune.report import draw_run, run_table

PACKAGES = ("lightning-dynprune", "torch", "lightning", "torchmetrics", "hydra-core", "numpy")


def run_training(cfg: DictConfig, folder: RunFolder, stop: StopRequest) -> float:
    """Run one job and return the figure that a sweeper optimizes.

    Args:
        cfg: the settings.
        folder: the run's folder.
        stop: set by Ctrl-C.

    Raises:
        ValueError: a setting cannot work; it is raised before any training.
        FolderInUse: another run writes to the folder.
    """
    with lock_run_folder(folder.path):
        return _run_locked(cfg, folder, stop)


def _run_locked(cfg: DictConfig, folder: RunFolder, stop: StopRequest) -> float:
    """Run the job in a folder that is locked for it."""
    folder.check_unoccupied()
    if folder.resuming:
        folder.validate_checkpoints()
    torch.set_num_threads(cfg.threads)
    pruning = new_pruning(cfg)

    began = time.perf_counter()
    data: InMemoryImages = instantiate(cfg.data)
    data.setup()
    seconds = {"data": time.perf_counter() - began}
    check_pruning(cfg, data)
    adaptive = new_adaptive(cfg, data)
    instantiate(cfg.trainer, logger=False, enable_checkpointing=False)  # raises if a setting of it cannot work
    # Nothing is written to the folder of a run that is refused.
    folder.write_settings()

    dense = get_dense_baseline(cfg, data, folder, stop) if cfg.dense else None
    if dense is not None:
        if cfg.distill:
            pruning = new_pruning(cfg, dense_network(cfg, folder))
        set_guard_reference(pruning, dense)
    pruned = train_phase("pruned", cfg, data, folder, stop, pruning, adaptive)
    if dense is not None:
        seconds["dense"] = dense["seconds"]
    seconds["pruned"] = pruned.seconds
    seconds["test"] = pruned.test_seconds

    results = {
        **pruning_figures(pruned, pruning),
        "dense_accuracy": None if dense is None else dense["accuracy"],
        "dense_val_accuracy": None if dense is None else dense["val_accuracy"],
        "seconds": seconds,
        "bytes": write_weights(pruned, folder, pruning),
        "adaptive": adaptive_figures(adaptive, data, folder),
        "history": {**pruned.curves, "dense_val_accuracy": [] if dense is None else dense["val_curve"]},
        "seed": cfg.seed,
        "overrides": folder.overrides,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "config": folder.recorded,
        "fingerprint": folder.fingerprint,
    }
    draw_run(results, folder.path / "sparsity.png")
    if pruning.pruner is not None and pruning.pruner.journal is not None:
        pruning.pruner.journal.plot(folder.path / "journal.png")
    write_json(folder.results, results)
    # last.ckpt and dense.json replace the dense checkpoint; the error is of an earlier attempt.
    folder.checkpoint("dense").unlink(missing_ok=True)
    folder.error.unlink(missing_ok=True)
    if folder.sweep is None:
        Console().print(run_table(results, folder.path, folder.files))
    objective: float = results[cfg.objective]
    return objective


def dense_network(cfg: DictConfig, folder: RunFolder) -> nn.Module:
    """Return the trained dense control of a run.

    Args:
        cfg: the settings.
        folder: the run's folder, with the control's weights or its sweep's.

    Raises:
        FileNotFoundError: the weights are gone.
    """
    network: nn.Module = new_classifier(cfg).network
    file = dense_file(folder.path)
    if file is None:
        raise FileNotFoundError(f"distill=dense: {folder.path} has no weights of the dense control; remove dense.json")
    load_weights(network, file)
    return network.eval()


def set_guard_reference(pruning: DynamicPruning, dense: Mapping[str, Any]) -> None:
    """Let the guard compare with the dense control's accuracy at the same step, if no reference is set."""
    guard = pruning.guard
    if guard is not None and guard.reference is None and guard.monitor == "val_acc":
        pruning.guard = dataclasses.replace(
            guard, reference=dense["val_accuracy"], control=guard.control or dense["val_curve"] or None
        )


def pruning_figures(phase: Phase, pruning: DynamicPruning) -> dict[str, Any]:
    """Return the figures of a pruned training; non-zero parameters are counted in its weights."""
    nonzero = sum(int(torch.count_nonzero(tensor)) for tensor in phase.parameters.values())
    return {
        "accuracy": phase.accuracy,
        "val_accuracy": phase.val_accuracy,
        "sparsity": pruning.sparsity,
        "target_sparsity": pruning.target_sparsity,
        "nonzero": nonzero,
        "parameters": phase.size,
        "compression": phase.size / nonzero,
        "layers": dict(pruning.layer_sparsity),
        "connections": dict(pruning.connections),
        "steps": phase.steps,
        "journal": journal_figures(pruning),
    }


def journal_figures(pruning: DynamicPruning) -> dict[str, Any] | None:
    """Return the totals and notes of the journal; None without a journal."""
    journal = None if pruning.pruner is None else pruning.pruner.journal
    if journal is None:
        return None
    return {
        **journal.totals,
        "returned_share": journal.returned_share,
        "notes": [text for _, text in journal.notes],
    }


def write_weights(phase: Phase, folder: RunFolder, pruning: DynamicPruning) -> dict[str, int]:
    """Write the pruned weights as a plain and as a compact file; return the bytes of each file."""
    about = {
        "lightning-dynprune": __version__,
        "model": json.dumps(folder.recorded["model"], sort_keys=True),
        "strategy": str(folder.recorded["strategy"].get("_target_")),
        "sparsity": f"{pruning.sparsity:.6f}",
    }
    return {
        "dense": write_dense(phase.weights, folder.path / "model.safetensors", about),
        "compact": save_compact(phase.weights, folder.path / "compact.safetensors"),
    }
