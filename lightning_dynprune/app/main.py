"""The entry point of the program ``dynprune``."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from lightning_dynprune.app.arguments import flags_first, search_working_folder
from lightning_dynprune.app.interrupt import Stopped, stop_on_interrupt
from lightning_dynprune.app.log_filters import silence_lightning
from lightning_dynprune.app.runs import (
    PHASES,
    ResumeError,
    RunFolder,
    expand_checkpoint,
    expand_resume,
    resume_command,
)
from lightning_dynprune.base import write_json
from lightning_dynprune.report import printable

INTERRUPTED = 130


def conf_dir() -> Path:
    """Return the folder ``conf``: inside the installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "conf"
    return shipped if shipped.is_dir() else package.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def main(cfg: DictConfig) -> float:
    """Run one job; in a sweep, record a failure in ``error.json`` so that the other jobs run.

    Returns:
        The figure that ``objective`` names; NaN for a failed job of a sweep; 0 for ``task=preflight``.
    """
    # Lightning and torch take seconds to import; --help and the report of a wrong argument do not need them.
    silence_lightning()
    folder = RunFolder.of_hydra(cfg)
    if cfg.get("task") == "deploy":
        from lightning_dynprune.app.tasks import run_deploy

        return run_deploy(cfg)
    if cfg.get("task") == "preflight":
        from lightning_dynprune.app.tasks import run_preflight

        run_preflight(cfg, folder)
        return 0.0
    from lightning_dynprune.app.tasks import run_training

    try:
        with stop_on_interrupt() as stop:
            return run_training(cfg, folder, stop)
    except Stopped:
        advice = f"To continue:\n\n    {resume_command(folder.path, folder.config_dirs)}\n"
        if not any(folder.checkpoint(phase).exists() for phase in PHASES):
            advice = "Nothing had been trained yet; start it again by the same command."
        Console(stderr=True, soft_wrap=True).print(f"Stopped. {advice}", markup=False)
        raise
    except Exception as error:
        if folder.sweep is None:
            raise
        message = f"{type(error).__name__}: {error}"
        record = {"error": message, "overrides": folder.overrides, "traceback": traceback.format_exc()}
        number = HydraConfig.get().job.num
        Console(stderr=True, soft_wrap=True).print(printable(f"Job {number} failed: {message}"), markup=False)
        # A full disk cannot take the record; the sweep then reports that the job ended without results.
        with suppress(OSError):
            write_json(folder.error, record)
        return float("nan")


def run() -> None:
    """Run the console script: expand ``resume=`` and ``checkpoint=`` to a full command line, then start Hydra."""
    try:
        sys.argv[1:] = flags_first(expand_checkpoint(expand_resume(sys.argv[1:])))
        search_working_folder(sys.argv[1:])
        main()
    except ResumeError as error:
        raise SystemExit(f"dynprune: {error}") from None
    except (Stopped, KeyboardInterrupt):
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    run()
