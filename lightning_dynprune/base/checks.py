"""Checks of numeric settings, each with the message a user reads."""

from __future__ import annotations

import math
from typing import Any, TypeGuard


def is_number(value: Any) -> bool:
    """Return whether ``value`` is a finite real number; a bool is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int past the largest float
        return False


def is_whole(value: Any, low: float = -math.inf, high: float = math.inf) -> TypeGuard[int]:
    """Return whether ``value`` is a whole number in [low, high]; a bool is none.

    Example:
        >>> is_whole(3), is_whole(3.0), is_whole(True), is_whole(0, low=1)
        (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def check_share(setting: str, value: Any) -> float:
    """Return ``value`` as float if it is a number in [0, 1).

    Raises:
        TypeError: it is no number.
        ValueError: it is outside [0, 1).
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{setting}={value!r} is not a number; give a number in [0, 1)")
    if not 0 <= value < 1:
        raise ValueError(f"{setting}={value!r} is not accepted; give a number in [0, 1)")
    return float(value)


def check_count(setting: str, value: Any) -> int:
    """Return ``value`` if it is a whole number of at least 1.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is below 1.
    """
    if not is_whole(value):
        raise TypeError(f"{setting}={value!r} is not a whole number; give one of at least 1")
    if value < 1:
        raise ValueError(f"{setting}={value!r} is not accepted; give a whole number of at least 1")
    return value


def check_whole(setting: str, value: Any) -> int:
    """Return ``value`` if it is a whole number.

    Raises:
        TypeError: it is none.
    """
    if not is_whole(value):
        raise TypeError(f"{setting}={value!r} is not a whole number; give one")
    return value


def check_real(setting: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Return ``value`` as float if it is a finite number in [low, high].

    Raises:
        TypeError: it is no finite number.
        ValueError: it is out of range.
    """
    if not is_number(value):
        raise TypeError(f"{setting}={value!r} is not a finite number; give a number in [{low:g}, {high:g}]")
    if not low <= value <= high:
        raise ValueError(f"{setting}={value!r} is not accepted; give a number in [{low:g}, {high:g}]")
    return float(value)


def check_flag(setting: str, value: Any) -> bool:
    """Return ``value`` if it is a bool.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{setting}={value!r} is not accepted; give true or false")
    return value
