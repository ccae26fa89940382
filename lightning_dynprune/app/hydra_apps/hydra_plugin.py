"""The names that Hydra finds in ``hydra_plugins.dynprune``, as which this file is installed."""

from lightning_dynprune.app.hydra_apps.config_source import DynpruneConfigSource, DynpruneSearchPath

__all__ = ["DynpruneConfigSource", "DynpruneSearchPath"]
