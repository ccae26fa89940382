"""The threshold and schedule that go with a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_default(kind: str, given: Any, own: str | Mapping[str, Any]) -> Any:
    """Return the setting that the user gave, or the strategy's own partner where none was given.

    Args:
        kind: "threshold" or "schedule".
        given: a name, a mapping, an instance or None; a mapping without ``name`` changes settings of ``own``, and its
            entries that are None are as if left out.
        own: a registered name, or a mapping with ``name``.

    Example:
        >>> with_default("schedule", {"begin": 0.1, "end": None}, {"name": "constant", "begin": 0})
        {'name': 'constant', 'begin': 0.1}
    """
    partner = {"name": own} if isinstance(own, str) else dict(own)
    if given is None:
        return partner
    if isinstance(given, Mapping) and given.get("name") is None:
        return {**partner, **{key: value for key, value in given.items() if value is not None}}
    return given
