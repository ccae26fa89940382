"""One job of the program: what Hydra calls with the settings of a run, or of a job of a sweep."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from lightning_dynprune.app.interrupt import Stopped, stop_on_interrupt
from lightning_dynprune.app.refusals import JobFailed, refusal
from lightning_dynprune.app.settings_folder import conf_dir

if TYPE_CHECKING:
    from lightning_dynprune.app.runs import RunFolder


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def main(cfg: DictConfig) -> float:
    """Run one job; in a sweep, record a failure in ``error.json`` so that the other jobs run.

    Returns:
        The figure that ``objective`` names; NaN for a failed job of a sweep; 0 for ``task=preflight``.
    """
    # What a message or a refusal does not need is imported after it: torch and Lightning take seconds.
    from lightning_dynprune.app.output import remove_unused_folders
    from lightning_dynprune.app.runs import RunFolder

    folder = RunFolder.of_hydra(cfg)
    if folder.sweep is not None:
        from lightning_dynprune.app.sweeps import stop_with_sweep

        stop_with_sweep()
    try:
        return run_job(cfg, folder) if cfg.get("task") is None else run_task(cfg, folder)
    except Exception as error:
        if folder.sweep is not None:
            raise
        remove_unused_folders()
        raise JobFailed from error


def run_task(cfg: DictConfig, folder: RunFolder) -> float:
    """Run a task other than a training."""
    from lightning_dynprune.app.settings_check import check_settings

    check_settings(cfg)
    load_libraries()
    from lightning_dynprune.app.tasks import run_deploy, run_preflight

    if cfg.task == "deploy":
        return run_deploy(cfg)
    run_preflight(cfg, folder)
    return 0.0


def run_job(cfg: DictConfig, folder: RunFolder) -> float:
    """Train one run, or read its figures if it has finished.

    Args:
        cfg: the settings.
        folder: the run's folder; in a sweep, a run that was stopped in it is resumed.
    """
    from lightning_dynprune.app.runs import FolderInUse, ResumeError, check_no_links, resume_command
    from lightning_dynprune.app.settings_check import check_settings
    from lightning_dynprune.base import printable

    try:
        with stop_on_interrupt() as stop:
            check_settings(cfg)
            check_no_links(folder.path, folder.sweep)
            if (folder.sweep is not None or folder.resuming) and (found := folder.finished_results()) is not None:
                if folder.sweep is None:
                    print(f"{printable(str(folder.path))}: the run has finished already; nothing is left to do")
                objective: float = found[cfg.objective]
                return objective
            if folder.sweep is not None:
                folder = replace(folder, resuming=folder.has_checkpoint)
            load_libraries()
            from lightning_dynprune.app.tasks import run_training

            return run_training(cfg, folder, stop)
    except Stopped:
        if folder.sweep is None:
            advice = f"To continue:\n\n    {resume_command(folder.path, folder.config_dirs)}\n"
            if not folder.has_checkpoint:
                advice = "Nothing had been trained yet; start it again by the same command."
            print(printable(f"Stopped. {advice}"), file=sys.stderr)
        raise
    except Exception as error:
        if folder.sweep is None:
            raise
        is_occupied = isinstance(error, (FileExistsError, FolderInUse, ResumeError))
        record_failure(error, folder, folder.sweep, is_occupied)
        return float("nan")


def record_failure(error: Exception, folder: RunFolder, sweep: Path, is_occupied: bool) -> None:
    """Write the error of a sweep's job to ``error.json``, and print it.

    Args:
        error: the error.
        folder: the job's folder.
        sweep: the sweep's folder.
        is_occupied: whether the job's folder holds another run, so that the record is written beside it.
    """
    from hydra.core.hydra_config import HydraConfig

    from lightning_dynprune.app.sweeps import refusal_file
    from lightning_dynprune.base import printable, write_json

    message = refusal(error) or f"{type(error).__name__}: {error}"
    record = {"error": message, "overrides": folder.overrides, "traceback": traceback.format_exc()}
    print(printable(f"Job {HydraConfig.get().job.num} failed: {message}"), file=sys.stderr)
    path = refusal_file(sweep, folder.path) if is_occupied else folder.error
    # A full disk cannot take the record; the sweep then reports that the job ended without results.
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        write_json(path, record)


def load_libraries() -> None:
    """Import torch and Lightning, which takes seconds; on a terminal a line says so meanwhile."""
    from rich.console import Console

    from lightning_dynprune.app.log_filters import silence_lightning

    console = Console(stderr=True)
    if "lightning.pytorch" in sys.modules or not console.is_terminal:
        silence_lightning()
        return
    with console.status("Loading torch and Lightning"):
        silence_lightning()
