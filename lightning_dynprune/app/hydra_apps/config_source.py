"""Hydra plugins that add the groups ``dynprune/...`` to the search path of every Hydra program."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from lightning_dynprune.app.settings_folder import conf_dir

NAME = "dynprune"
GROUPS = ("strategy", "threshold", "schedule", "pattern", "targets", "guard")
_OWN = Path(__file__).with_name("default.yaml")


class DynpruneConfigSource(ConfigSource):
    """The groups of the pruning callback, each under ``dynprune/``, read from the settings of the program.

    A file for the package ``_global_`` of the program is one for ``dynprune`` here.
    """

    @staticmethod
    def scheme() -> str:
        """Return the name before ``://`` in a search path."""
        return NAME

    def available(self) -> bool:
        """Return whether the settings are installed."""
        return conf_dir().is_dir()

    def is_group(self, config_path: str) -> bool:
        """Return whether the path is the root, ``dynprune`` or one of its groups."""
        return config_path in ("", NAME, *(f"{NAME}/{group}" for group in GROUPS))

    def is_config(self, config_path: str) -> bool:
        """Return whether the path is one of the files."""
        file = self._file(config_path)
        return file is not None and file.is_file()

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the content of a file.

        Raises:
            ConfigLoadError: there is no such file.
        """
        file = self._file(config_path)
        if file is None or not file.is_file():
            raise ConfigLoadError(f"Config not found : {config_path}")
        text = file.read_text(encoding="utf-8")
        header = self._get_header_dict(text)
        if header.get("package") == "_global_":
            header["package"] = NAME
        return ConfigResult(provider=self.provider, path=self.full_path(), config=OmegaConf.create(text), header=header)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the names of groups and files under a path, sorted."""
        groups = {"": [NAME], NAME: list(GROUPS)}.get(config_path, [])
        files: list[str] = []
        if config_path == NAME:
            files = [_OWN.stem]
        elif config_path and self.is_group(config_path):
            files = [path.stem for path in (conf_dir() / config_path.removeprefix(f"{NAME}/")).glob("*.yaml")]
        shown = [*groups] if results_filter != ObjectType.CONFIG else []
        return sorted([*shown, *(files if results_filter != ObjectType.GROUP else [])])

    def _file(self, config_path: str) -> Path | None:
        """Return the file of a path such as ``dynprune/strategy/rigl``; None outside the groups."""
        parts = config_path.removesuffix(".yaml").split("/")
        if parts == [NAME, _OWN.stem]:
            return _OWN
        if len(parts) == 3 and parts[0] == NAME and parts[1] in GROUPS:
            return conf_dir() / parts[1] / f"{parts[2]}.yaml"
        return None


class DynpruneSearchPath(SearchPathPlugin):
    """Append the groups to the search path, behind those of the program, which may replace a file of them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the groups."""
        search_path.append(provider="lightning-dynprune", path=f"{NAME}://settings")
