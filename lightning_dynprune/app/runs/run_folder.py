"""The folder of one run: the paths of its files, and the settings of the run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

PHASES = ("pruned", "dense")


@dataclass(frozen=True)
class RunFolder:
    """The folder and the settings of a run.

    Args:
        path: the folder.
        overrides: the run's overrides, typed by the user or made by the sweep.
        config: the resolved configuration.
        config_dirs: folders given by ``--config-dir``.
        sweep: the sweep's folder; None for a single run.
        resuming: whether the run continues from its checkpoints.
    """

    path: Path
    overrides: list[str]
    config: dict[str, Any]
    config_dirs: list[str] = field(default_factory=list)
    sweep: Path | None = None
    resuming: bool = False

    @classmethod
    def of_hydra(cls, cfg: DictConfig) -> RunFolder:
        """Return the folder of the job that Hydra is running."""
        hydra = HydraConfig.get()
        config = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(config, dict)
        return cls(
            path=Path(hydra.runtime.output_dir),
            overrides=list(hydra.overrides.task),
            config={str(key): value for key, value in config.items()},
            config_dirs=[s.path for s in hydra.runtime.config_sources if s.provider == "command-line"],
            sweep=Path(hydra.sweep.dir).resolve() if hydra.mode == RunMode.MULTIRUN else None,
            resuming=cfg.resume is not None,
        )

    @property
    def config_text(self) -> str:
        """The resolved configuration as JSON text with sorted keys."""
        return json.dumps(self.config, sort_keys=True)

    def checkpoint(self, phase: str) -> Path:
        """Return the path of the checkpoint of a phase, ``dense`` or ``pruned``."""
        return self.path / ("dense.ckpt" if phase == "dense" else "last.ckpt")

    @property
    def results(self) -> Path:
        """Path of the figures of the finished run."""
        return self.path / "results.json"

    @property
    def error(self) -> Path:
        """Path of the error of a failed run."""
        return self.path / "error.json"

    @property
    def dense_record(self) -> Path:
        """Path of the figures of the dense baseline."""
        return self.path / "dense.json"

    def check_unoccupied(self) -> None:
        """Raise if a new run would overwrite the checkpoints of another.

        Raises:
            FileExistsError: the folder holds a run.
        """
        for phase in PHASES:
            if not self.resuming and (found := self.checkpoint(phase)).exists():
                raise FileExistsError(
                    f"{found} exists: the folder holds another run. Continue it by resume={self.path}, "
                    "or choose another folder by hydra.run.dir or hydra.sweep.dir"
                )
