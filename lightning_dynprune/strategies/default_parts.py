"""The default threshold and schedule of a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_default(kind: str, given: Any, default: str | Mapping[str, Any]) -> Any:
    """Return the threshold or schedule that the user gave, or the strategy's default where none was given.

    Args:
        kind: "threshold" or "schedule".
        given: a name, a mapping, an instance or None. A mapping without ``name`` overrides settings of the default;
            entries that are None are ignored.
        default: a registered name, or a mapping with ``name``.

    Example:
        >>> with_default("schedule", {"begin": 0.1, "end": None}, {"name": "constant", "begin": 0})
        {'name': 'constant', 'begin': 0.1}
    """
    settings = {"name": default} if isinstance(default, str) else dict(default)
    if given is None:
        return settings
    if isinstance(given, Mapping) and given.get("name") is None:
        return {**settings, **{key: value for key, value in given.items() if value is not None}}
    return given
