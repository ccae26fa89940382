"""The entry of the program ``dynprune``."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from lightning_dynprune.app.arguments import flags_first
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
    """Return the folder of the shipped configuration: in the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "conf"
    return shipped if shipped.is_dir() else package.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def main(cfg: DictConfig) -> float:
    """Run one job; in a sweep, write down a failure and let the other jobs run.

    Returns:
        The accuracy (or whatever ``objective`` names); not a number for a failed job of a sweep; zero for a task that
        has none.
    """
    # Lightning and torch take seconds to import, which --help and a refused command line need not wait for.
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
        how = f"To continue:\n\n    {resume_command(folder.path, folder.config_dirs)}\n"
        if not any(folder.checkpoint(phase).exists() for phase in PHASES):
            how = "Nothing had been trained yet; start it again by the same command."
        Console(stderr=True, soft_wrap=True).print(f"Stopped. {how}", markup=False)
        raise
    except Exception as error:
        if folder.sweep is None:
            raise
        what = f"{type(error).__name__}: {error}"
        record = {"error": what, "overrides": folder.overrides, "traceback": traceback.format_exc()}
        number = HydraConfig.get().job.num
        Console(stderr=True, soft_wrap=True).print(printable(f"Job {number} failed: {what}"), markup=False)
        # On a full disk there is no room for it; the sweep then says that the job ended without results.
        with suppress(OSError):
            write_json(folder.error, record)
        return float("nan")


def run() -> None:
    """Console script: make the command line of a run that exists already, then hand over to Hydra."""
    try:
        sys.argv[1:] = flags_first(expand_checkpoint(expand_resume(sys.argv[1:])))
        main()
    except ResumeError as refusal:
        raise SystemExit(f"dynprune: {refusal}") from None
    except (Stopped, KeyboardInterrupt):
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    run()
