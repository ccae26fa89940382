"""``dynprune resume=PATH``: rebuild the command line of a stopped run from its checkpoint.

A configuration file beside a checkpoint is never loaded, since Hydra calls any ``_target_`` in it. The checkpoint holds
the run's overrides as plain text; they are composed again with the installed configuration, and overrides that could
name code are rejected.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException

from lightning_dynprune.app.arguments import CONFIG_DIR_FLAGS
from lightning_dynprune.app.runs.override_list import validate_overrides
from lightning_dynprune.base import printable

CHECKPOINTS = ("last.ckpt", "dense.ckpt")
INPUT_FOLDERS = ("data_dir", "data.data_dir")
# Settings by which other tasks name the file they write.
OUTPUT_FILES = ("output",)
# Characters of a configuration as JSON, and how deeply its settings may be nested; both far above any of a run.
_LONGEST_CONFIG, _DEEPEST = 2**20, 32
# Settings that do not change what is computed.
NOT_COMPARED = ("resume", *INPUT_FOLDERS, "progress", "objective")


class ResumeError(ValueError):
    """The run cannot be resumed, or not exactly.

    Args:
        message: what is wrong; control characters, which may be a checkpoint's, are written as escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def expand_resume(arguments: Sequence[str]) -> list[str]:
    """Replace ``resume=PATH`` in the arguments by the overrides and the folder of the stopped run.

    Args:
        arguments: the command line without the program's name.

    Returns:
        The arguments for Hydra; unchanged without ``resume``.

    Raises:
        ResumeError: there is no checkpoint, another program wrote it, or it holds unsafe overrides.
    """
    paths = [argument.partition("=")[2].strip("'\"") for argument in arguments if argument.startswith("resume=")]
    paths = [path for path in paths if path not in ("", "null")]
    if not paths:
        return list(arguments)
    if {"-m", "--multirun"} & set(arguments) or len(paths) > 1:
        raise ResumeError("resume continues one run at a time; leave out -m and give one resume=PATH")
    checkpoint = find_checkpoint(Path(paths[0]))
    stored = read_run(checkpoint)
    given = [argument for argument in arguments if not argument.startswith("resume=")]
    if stored["config_dirs"] and not any(argument.startswith(CONFIG_DIR_FLAGS) for argument in given):
        command = resume_command(checkpoint.parent, stored["config_dirs"])
        raise ResumeError(
            f"this run used settings from {', '.join(stored['config_dirs'])}. Files are not taken from a "
            f"path that a checkpoint names; if you trust that folder, give it again: {command}"
        )
    overrides = [text for text in safe_overrides(stored["overrides"], given) if text not in given]
    folder = checkpoint.parent.resolve()
    return [*overrides, *given, f"resume={quote_path(folder)}", f"hydra.run.dir={quote_path(folder)}"]


def resume_command(folder: Path, config_dirs: Sequence[str] = ()) -> str:
    """Return the shell command that resumes the run in ``folder``.

    Example:
        >>> resume_command(Path("/runs/a b"))
        "dynprune 'resume=/runs/a b'"
    """
    flags = [part for config_dir in config_dirs for part in ("--config-dir", config_dir)]
    return shlex.join(["dynprune", *flags, f"resume={folder.resolve()}"])


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint at a path: the path itself if it is a file, or the checkpoint in a run's folder.

    Raises:
        ResumeError: there is no checkpoint.
    """
    if path.is_file():
        return path
    for name in CHECKPOINTS:
        if (path / name).is_file():
            return path / name
    if path.is_dir():
        raise ResumeError(
            f"resume={path}: the folder holds neither {' nor '.join(CHECKPOINTS)}, so nothing had been trained; "
            "start the run again by its own command"
        )
    raise ResumeError(f"resume={path}: there is no such folder or file; give a run's folder or its last.ckpt")


def read_run(checkpoint: Path) -> dict[str, Any]:
    """Return the ``overrides``, ``config_dirs`` and ``config`` (JSON text) of the run from its checkpoint.

    Raises:
        ResumeError: the file is damaged, or another program wrote it.
    """
    # These import torch, which a command without a checkpoint does not need.
    from lightning_dynprune.base import DamagedError, read_checkpoint, validate_checkpoint_file

    try:
        validate_checkpoint_file(checkpoint, "resume")
        content = read_checkpoint(checkpoint)
    except DamagedError as error:
        raise ResumeError(str(error)) from None
    except ValueError as error:
        raise ResumeError(f"resume={checkpoint}: not a checkpoint that is safe to load: {error}") from None
    callbacks = content.get("callbacks")
    run = callbacks.get("LastCheckpoint") if isinstance(callbacks, dict) else None
    if not isinstance(run, dict) or not {"overrides", "config_dirs", "config"} <= run.keys():
        raise ResumeError(f"resume={checkpoint}: a checkpoint, but not one that dynprune wrote")
    for key in ("overrides", "config_dirs"):
        try:
            validate_overrides(run[key])
        except ValueError as error:
            why = str(error).replace("overrides", key)
            raise ResumeError(f"resume={checkpoint}: the checkpoint is damaged: {why}") from None
    for key in ("config", "digest"):
        if not isinstance(run.get(key, ""), str):
            raise ResumeError(f"resume={checkpoint}: the checkpoint is damaged: {key} is no text")
    return run


def safe_overrides(overrides: Sequence[str], given: Sequence[str] = ()) -> list[str]:
    """Return a checkpoint's overrides without those that choose folders; reject overrides that could name code.

    Args:
        overrides: the overrides stored in the checkpoint, which may come from an untrusted source.
        given: arguments typed by the user; overrides among them are trusted.

    Raises:
        ResumeError: an override is no ``key=value``, names a ``_target_``, contains an interpolation or an escape
            (which could build one), or leaves the folder of settings (with ``model=../../x`` Hydra would read that
            file) or the folder of the run (``logger.version=/x`` would be written to).

    Example:
        >>> safe_overrides(["sparsity=0.8", "hydra.run.dir=x", "resume=y"])
        ['sparsity=0.8']
    """
    safe = []
    for text in overrides:
        key = re.split(r"[=.@/:]", text.lstrip("+~"))[0]
        if key in ("hydra", "resume") or text.partition("=")[0] in OUTPUT_FILES:
            continue
        if text not in given and not _is_harmless(text):
            raise ResumeError(
                f"the checkpoint holds the override {text!r}, which may run code or write elsewhere; if you wrote it "
                f"and trust it, type it again: dynprune resume=PATH {shlex.quote(text)}"
            )
        safe.append(text)
    return safe


def _is_harmless(text: str) -> bool:
    """Return whether an override names no code and no path except the folder of the data."""
    if not re.match(r"[+~]{0,2}[A-Za-z_][\w./@:\-]*(=|$)", text):
        return False
    if re.match(r"\+{0,2}task=(?!train$)", text):
        return False
    # Hydra's parser overlooks a brace after a backslash, but the resulting setting is an interpolation.
    if "_target_" in text or "${" in text or "\\" in text:
        return False
    try:
        override = OverridesParser.create().parse_override(text)
        if override.value_type == ValueType.RANGE_SWEEP:  # numbers only
            return True
        if override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
            values = override.sweep_string_iterator()
            return all(_is_harmless(f"{override.get_key_element()}={value}") for value in values)
        if override.is_sweep_override():
            return False
        value = override.value()
    except (HydraException, RecursionError):
        return False
    return text.partition("=")[0] in INPUT_FOLDERS or (".." not in text and not any(map(_is_absolute, _texts(value))))


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in the value of an override."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from _texts(entry)
    else:
        yield str(value)


def _is_absolute(text: str) -> bool:
    return text.startswith("~") or PurePosixPath(text).is_absolute() or bool(PureWindowsPath(text).anchor)


def changed_settings(stored: str, current: str) -> str:
    """Return each setting that differs with both values, as one text; empty if a run is the same by both.

    Args:
        stored: configuration of an earlier run, as JSON text.
        current: configuration composed now, as JSON text.

    Raises:
        ResumeError: the stored configuration is damaged.
    """
    from lightning_dynprune.base import parse_json

    try:
        if len(stored) > _LONGEST_CONFIG:
            raise ValueError(f"it has {len(stored)} characters; at most {_LONGEST_CONFIG} are read")
        before, now = (flatten(parse_json(text, accepts_nan=True)) for text in (stored, current))
    except ValueError as error:
        raise ResumeError(f"the checkpoint is damaged: its config is no JSON of settings: {error}") from None
    return "; ".join(
        f"{key}: {json.dumps(before.get(key, 'absent'))} -> {json.dumps(now.get(key, 'absent'))}"
        for key in sorted(before.keys() | now.keys())
        if key not in NOT_COMPARED and before.get(key, "absent") != now.get(key, "absent")
    )


def flatten(tree: Any, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted key.

    Raises:
        ValueError: the mappings are nested too deeply; the keys would take many times as much memory.

    Example:
        >>> flatten({"a": {"b": 1}, "c": [2]})
        {'a.b': 1, 'c': [2]}
    """
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    if depth == _DEEPEST:
        raise ValueError(f"its settings are nested in more than {_DEEPEST} mappings")
    leaves: dict[str, Any] = {}
    for key, branch in tree.items():
        leaves |= flatten(branch, f"{prefix}.{key}" if prefix else str(key), depth + 1)
    return leaves


def quote_path(path: Path) -> str:
    r"""Return a path as a value of an override, in quotes, that Hydra reads as it is.

    Example:
        >>> quote_path(Path("it's")), quote_path(Path("${oc.env:HOME}"))
        ("'it\\'s'", "'\\${oc.env:HOME}'")
    """
    # In quotes, a backslash counts as one only before a quote.
    escaped = re.sub(
        r"(\\*)('|$)", lambda run: run[1] * 2 + ("\\'" if run[2] else ""), without_interpolation(str(path))
    )
    return f"'{escaped}'"


def without_interpolation(text: str) -> str:
    r"""Return a text as a setting whose value is that text, where it holds the ``${`` of an interpolation.

    Example:
        >>> without_interpolation("${oc.env:HOME}")
        '\\${oc.env:HOME}'
    """
    return re.sub(r"(\\*)\$\{", lambda run: run[1] * 2 + r"\${", text)
