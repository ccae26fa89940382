"""The settings of a run as they are written to files: what comes from the environment stays as it was typed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_dynprune.app.runs.resume import (
    NOT_COMPARED,
    ResumeError,
    changed_settings,
    flatten,
    without_interpolation,
)

# ${oc.env:NAME} and other calls of a resolver; ${seed}, which names another setting, is none.
_CALL = re.compile(r"\$\{\s*[\w.]+\s*:")


def recorded_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings with references to other settings resolved, and calls such as ``${oc.env:TOKEN}`` as typed.

    Args:
        cfg: the settings.

    Example:
        >>> recorded_settings(OmegaConf.create({"a": "${b}", "b": 1, "c": "${oc.env:HOME}", "d": "${c}"}))
        {'a': 1, 'b': 1, 'c': '${oc.env:HOME}', 'd': '${oc.env:HOME}'}
    """
    typed = _without_calls(OmegaConf.to_container(cfg, resolve=False))
    recorded = OmegaConf.to_container(OmegaConf.create(typed), resolve=True)
    assert isinstance(recorded, dict)
    return {str(key): value for key, value in recorded.items()}


def settings_digest(config: Mapping[str, Any]) -> str:
    """Return a short hash of resolved settings, without those that do not change what is computed."""
    return hashlib.sha256(json.dumps(compared_settings(config), sort_keys=True).encode()).hexdigest()[:16]


def compared_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that change what is computed, by dotted key."""
    return {key: value for key, value in flatten(config).items() if key not in NOT_COMPARED}


def validate_same_settings(run: Mapping[str, Any], recorded: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise if a run would be resumed with other settings, or with other values of the environment.

    Args:
        run: ``config``, JSON text, and ``digest`` of the checkpoint; earlier releases wrote resolved settings and no
            digest.
        recorded: the settings now, as they are recorded.
        config: the settings now, resolved.

    Raises:
        ResumeError: they differ; the message gives each changed key.
    """
    changed = changed_settings(run["config"], json.dumps(recorded, sort_keys=True))
    if changed and changed_settings(run["config"], json.dumps(config, sort_keys=True)):
        raise ResumeError(
            "the run to resume had other settings, so it could not continue exactly; "
            f"leave them as they were, or start a new run. Changed: {changed}"
        )
    if not changed and run.get("digest", "") not in ("", settings_digest(config)):
        before, now = compared_settings(recorded), compared_settings(config)
        names = sorted(key for key in now if now[key] != before.get(key))
        raise ResumeError(
            f"the run to resume had another value of {', '.join(names) or 'a setting'}, which the settings take from "
            "elsewhere, such as the environment; set it as it was, or start a new run"
        )


def _without_calls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_calls(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_calls(entry) for entry in value]
    return without_interpolation(value) if isinstance(value, str) and _CALL.search(value) else value
