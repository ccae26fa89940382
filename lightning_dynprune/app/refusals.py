"""One sentence for each error that a user's settings or files cause; other errors keep their traceback."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import (
    CompactHydraException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_dynprune.base import did_you_mean

FULL_ERROR = "HYDRA_FULL_ERROR"
_PACKAGE = Path(__file__).resolve().parents[1]
_LONGEST = 600  # characters of a message
_VALUE_ERRORS = (ValueError, TypeError, OSError, ImportError, RuntimeError)
# Launchers and sweepers of Hydra that are packages of their own.
_PLUGINS = {
    "joblib": "hydra-joblib-launcher",
    "ray": "hydra-ray-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}


class JobFailed(BaseException):
    """A single run has raised its ``__cause__``.

    It is no ``Exception``: to those of a job Hydra adds a line of its own, and it turns those of a callback into
    warnings.
    """


def wants_traceback(arguments: Sequence[str]) -> bool:
    """Return whether the user asked for tracebacks, by ``HYDRA_FULL_ERROR=1`` or ``hydra.verbose=...``."""
    verbose = [argument for argument in arguments if argument.startswith("hydra.verbose=")]
    return os.environ.get(FULL_ERROR) == "1" or any(not text.lower().endswith("=false") for text in verbose)


def refusal(error: Exception, conf: Path | None = None, arguments: Sequence[str] = ()) -> str | None:
    """Return one sentence about an error, or None if the error is a fault of a program.

    An error is a refusal if Hydra raised it, or if it was raised in this package and not by the code that it called.

    Args:
        error: the error.
        conf: the folder of the settings, from which similar names are suggested.
        arguments: the command line without the program's name.
    """
    if isinstance(error, InstantiationException):
        return _cut(_instantiation(error))
    if isinstance(error, MissingConfigException):
        return _cut(_missing_option(error, conf))
    if isinstance(error, OverrideParseException):
        given = error.override or ""
        return _cut(f"{given!r} cannot be read as a setting; write KEY=VALUE, and quote a value with spaces or commas")
    if isinstance(error, CompactHydraException):
        return _cut(_composition(error, conf, arguments))
    if isinstance(error, OmegaConfBaseException):
        key = getattr(error, "full_key", None)
        return _cut(
            f"{key}: {_first_line(error)}; give a value or the name of a setting" if key else _first_line(error)
        )
    if isinstance(error, HydraException):
        return _cut(_first_line(error))
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, about settings of the Trainer
        return _cut(f"trainer: {_one_line(error)}")
    return _cut(_one_line(error)) if isinstance(error, _VALUE_ERRORS) and _is_of_package(error) else None


def _missing_option(error: MissingConfigException, conf: Path | None) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or [])
    if group.startswith("hydra/") and name in _PLUGINS:
        return f"{group}={name} needs the package {_PLUGINS[name]}: pip install 'lightning-dynprune[sweep]'"
    if not group:
        return _first_line(error)
    return f"{group}={name} is unknown{did_you_mean(name, options)} known: {', '.join(options)}".replace(
        " is unknown known", " is unknown; known"
    )


def _composition(error: Exception, conf: Path | None, arguments: Sequence[str]) -> str:
    text = str(error)
    found = re.search(
        r"Could not (?:override|append to config\. An item is already at|delete from config\.) '?([^'\n]+)'", text
    )
    if found is None and (ambiguous := re.match(r"Ambiguous value for argument '([^'\n]*)'", text)):
        return f"{ambiguous[1]} gives several values; sweep over them with dynprune -m, or give one"
    if found is None and (twice := re.match(r"Multiple values for (\S+)\.", text)):
        return f"{twice[1]} is given twice; write {twice[1]}=NAME without a + before it"
    if found is None:
        return _first_line(error)
    key = found[1]
    parent, _, last = key.rpartition(".")
    known = _known_keys(conf, parent, arguments)
    near = did_you_mean(last, known)
    where = f"{parent} has: {_some(known)}" if parent else "dynprune --help lists the groups, --cfg job every setting"
    if near and parent:
        near = near.replace("did you mean ", f"did you mean {parent}.")
    return f"there is no setting {key}{near} {where}" if near else f"there is no setting {key}; {where}"


def _known_keys(conf: Path | None, parent: str, arguments: Sequence[str]) -> list[str]:
    """Return the names of the settings under ``parent``, with the groups that the command line chooses."""
    from hydra import compose, initialize_config_dir

    if conf is None:
        return []
    groups = sorted(path.name for path in conf.iterdir() if path.is_dir())
    choices = [text for text in arguments if text.partition("=")[0] in groups and _is_option(conf, text)]
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            config: Any = compose("config", overrides=choices, return_hydra_config=parent.startswith("hydra"))
            chosen = OmegaConf.select(config, parent) if parent else config
    except (HydraException, OmegaConfBaseException):
        return []
    names = [str(key) for key in chosen if not str(key).startswith("_")] if OmegaConf.is_dict(chosen) else []
    return names if parent else sorted({*names, *groups} - {"hydra"})


def _is_option(conf: Path, text: str) -> bool:
    group, _, name = text.partition("=")
    return (conf / group / f"{name}.yaml").is_file()


def _instantiation(error: InstantiationException) -> str:
    """Return the message of the error that a part's class raised, with the name of the setting."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    key = re.search(r"full_key: (\S+)", str(error))
    where = "" if key is None else f"{key[1]}: "
    if isinstance(cause, InstantiationException):
        return where + _first_line(cause)
    return where + _one_line(cause)


def _is_of_package(error: Exception) -> bool:
    """Return whether the error was raised in a file of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).resolve().is_relative_to(_PACKAGE)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _some(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most]) or "no settings"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _cut(text: str) -> str:
    from lightning_dynprune.base import printable

    return printable(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...")
