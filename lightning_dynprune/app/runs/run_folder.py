"""The folder of one run: the paths of its files, and the settings of the run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lightning_dynprune import __version__
from lightning_dynprune.app.runs.override_list import validate_overrides
from lightning_dynprune.app.runs.recorded_settings import compared_settings, recorded_settings, validate_same_settings
from lightning_dynprune.app.runs.records import read_results
from lightning_dynprune.app.runs.resume import changed_settings, read_run
from lightning_dynprune.base import write_text

PHASES = ("pruned", "dense")


@dataclass(frozen=True)
class RunFolder:
    """The folder and the settings of a run.

    Args:
        path: the folder.
        overrides: the run's overrides, typed by the user or made by the sweep.
        config: the resolved configuration; it may hold secrets of the environment and is not written.
        recorded: the configuration as it is written to files; see :func:`recorded_settings`.
        config_dirs: folders given by ``--config-dir``.
        sweep: the sweep's folder; None for a single run.
        resuming: whether the run continues from its checkpoints.
    """

    path: Path
    overrides: list[str]
    config: dict[str, Any]
    recorded: dict[str, Any] = field(default_factory=dict)
    config_dirs: list[str] = field(default_factory=list)
    sweep: Path | None = None
    resuming: bool = False

    @classmethod
    def of_hydra(cls, cfg: DictConfig) -> RunFolder:
        """Return the folder of the job that Hydra is running."""
        hydra = HydraConfig.get()
        # The path itself: Hydra would take a ${...} in its name for an interpolation.
        runtime: Any = OmegaConf.to_container(hydra.runtime, resolve=False)
        config = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(config, dict)
        return cls(
            path=Path(runtime["output_dir"]),
            overrides=validate_overrides(OmegaConf.to_container(hydra.overrides.task, resolve=False)),
            config={str(key): value for key, value in config.items()},
            recorded=recorded_settings(cfg),
            config_dirs=[s.path for s in hydra.runtime.config_sources if s.provider == "command-line"],
            sweep=Path(hydra.sweep.dir).absolute() if hydra.mode == RunMode.MULTIRUN else None,
            resuming=cfg.resume is not None,
        )

    @property
    def config_text(self) -> str:
        """The configuration as it is written to files, as JSON text with sorted keys."""
        return json.dumps(self.recorded, sort_keys=True)

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

    @property
    def files(self) -> list[str]:
        """Names of the files in the folder, without hidden ones."""
        return sorted(path.name for path in self.path.iterdir() if path.is_file() and not path.name.startswith("."))

    @property
    def fingerprint(self) -> str:
        """A short hash of the resolved configuration and the version of this package.

        Settings that do not change what is computed, such as the folder of the data, are left out.
        """
        text = json.dumps([__version__, compared_settings(self.config)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def has_checkpoint(self) -> bool:
        """Whether the folder holds the checkpoint of a run."""
        return any(self.checkpoint(phase).exists() for phase in PHASES)

    def finished_results(self) -> dict[str, Any] | None:
        """Return the content of ``results.json`` if this run has finished; None if the folder holds no finished run.

        Raises:
            FileExistsError: the folder holds a finished run of other settings or another version.
            ValueError: the file is damaged.
            OSError: the file cannot be read.
        """
        if not self.results.exists():
            return None
        results = read_results(self.results)
        if results.get("fingerprint") == self.fingerprint:
            return results
        changed = changed_settings(json.dumps(results.get("config")), self.config_text)
        versions = results.get("versions")
        before = versions.get("lightning-dynprune") if isinstance(versions, dict) else None
        raise FileExistsError(
            f"{self.path} holds a finished run, which is not overwritten; choose another folder by hydra.run.dir or "
            f"hydra.sweep.dir. It differs in: {changed or f'version: {before} -> {__version__}'}"
        )

    def write_settings(self) -> None:
        """Write the configuration, Hydra's own and the overrides to ``.hydra/``, as Hydra would before a job.

        Hydra itself would write them to the folder of a finished run too.
        """
        settings = self.path / ".hydra"
        settings.mkdir(exist_ok=True)
        hydra = HydraConfig.instance().cfg
        contents: dict[str, Any] = {"config": self.recorded, "overrides": self.overrides}
        if hydra is not None:
            contents["hydra"] = hydra
        for name, content in contents.items():
            write_text(settings / f"{name}.yaml", OmegaConf.to_yaml(content))

    def validate_checkpoints(self) -> None:
        """Raise if a checkpoint in the folder is unsafe to load, or is that of a run with other settings.

        Raises:
            ResumeError: naming the file, or the settings.
        """
        for path in filter(Path.exists, map(self.checkpoint, PHASES)):
            validate_same_settings(read_run(path), self.recorded, self.config)

    def check_unoccupied(self) -> None:
        """Raise if a new run would overwrite the checkpoints of another.

        Raises:
            FileExistsError: the folder holds a run.
        """
        for found in (self.results, *map(self.checkpoint, PHASES)):
            if not self.resuming and found.exists():
                raise FileExistsError(
                    f"{found} exists: the folder holds another run. Continue it by resume={self.path}, "
                    "or choose another folder by hydra.run.dir or hydra.sweep.dir"
                )
