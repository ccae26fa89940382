"""Checks of settings, which accept NumPy scalars wherever they accept a Python number.

Every check returns a plain Python value. Settings and checkpoints store that value, because
``torch.load(weights_only=True)`` rejects NumPy scalars.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any, TypeGuard

_NUMPY_BOOLS = ("bool", "bool_")  # the name before NumPy 2, and since


def to_python(value: Any) -> Any:
    """Return the Python number or bool that a NumPy scalar holds; any other value is returned unchanged.

    Example:
        >>> import numpy
        >>> to_python(numpy.int64(3)), to_python(numpy.float64(0.5)), to_python("erk")
        (3, 0.5, 'erk')
    """
    if type(value).__module__ != "numpy":
        return value
    if isinstance(value, Integral):
        return operator.index(value)
    if isinstance(value, Real):
        return float(value)
    return bool(value) if type(value).__name__ in _NUMPY_BOOLS else value


def convert_settings(part: Any) -> None:
    """Convert NumPy scalars among the fields of a dataclass instance to Python numbers, in place.

    The values of a field that is a mapping are converted too. A frozen instance is written as well, so call this in
    ``__post_init__``. An object that is no dataclass is left as it is.
    """
    if not is_dataclass(part):
        return
    for name in (entry.name for entry in fields(part)):
        value = getattr(part, name, None)
        if isinstance(value, Mapping):
            converted: Any = {key: to_python(entry) for key, entry in value.items()}
            is_changed = any(converted[key] is not entry for key, entry in value.items())
        else:
            converted = to_python(value)
            is_changed = converted is not value
        if is_changed:
            object.__setattr__(part, name, converted)


def is_number(value: Any) -> bool:
    """Return whether ``value`` is a finite real number; a bool is not a number."""
    if not _is_real(value):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int past the largest float
        return False


def is_whole(value: Any, low: float = -math.inf, high: float = math.inf) -> TypeGuard[int]:
    """Return whether ``value`` is an integer in [low, high]; a bool is not a number.

    Example:
        >>> is_whole(3), is_whole(3.0), is_whole(True), is_whole(0, low=1)
        (True, False, False, False)
    """
    value = to_python(value)
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def check_share(setting: str, value: Any) -> float:
    """Return ``value`` as float if it is a number in [0, 1).

    Args:
        setting: the setting's name, for the message.
        value: the value given.

    Raises:
        TypeError: ``value`` is not a number.
        ValueError: ``value`` is outside [0, 1).
    """
    value = to_python(value)
    if not _is_real(value):
        raise TypeError(f"{setting}={value!r} is not a number; give a number in [0, 1)")
    if not 0 <= value < 1:
        hint = f"; did you mean {value / 100:g}?" if 2 <= value < 100 else ""
        raise ValueError(f"{setting}={value!r} is not accepted; give a number in [0, 1){hint}")
    return float(value)


def check_count(setting: str, value: Any) -> int:
    """Return ``value`` as int if it is an integer of at least 1.

    Args:
        setting: the setting's name, for the message.
        value: the value given.

    Raises:
        TypeError: ``value`` is not an integer.
        ValueError: ``value`` is below 1.
    """
    value = to_python(value)
    if not is_whole(value):
        raise TypeError(f"{setting}={value!r} is not a whole number; give one of at least 1")
    if value < 1:
        raise ValueError(f"{setting}={value!r} is not accepted; give a whole number of at least 1")
    return int(value)


def check_whole(setting: str, value: Any) -> int:
    """Return ``value`` as int if it is an integer.

    Args:
        setting: the setting's name, for the message.
        value: the value given.

    Raises:
        TypeError: ``value`` is not an integer.
    """
    value = to_python(value)
    if not is_whole(value):
        raise TypeError(f"{setting}={value!r} is not a whole number; give one")
    return int(value)


def check_real(setting: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """Return ``value`` as float if it is a finite number in [low, high].

    Args:
        setting: the setting's name, for the message.
        value: the value given.
        low: the smallest value accepted.
        high: the largest value accepted.

    Raises:
        TypeError: ``value`` is not a finite number.
        ValueError: ``value`` is out of range.
    """
    value = to_python(value)
    if not is_number(value):
        raise TypeError(f"{setting}={value!r} is not a finite number; give a number in [{low:g}, {high:g}]")
    if not low <= value <= high:
        raise ValueError(f"{setting}={value!r} is not accepted; give a number in [{low:g}, {high:g}]")
    return float(value)


def check_flag(setting: str, value: Any) -> bool:
    """Return ``value`` as bool if it is one.

    Args:
        setting: the setting's name, for the message.
        value: the value given.

    Raises:
        TypeError: ``value`` is not a bool.
    """
    value = to_python(value)
    if not isinstance(value, bool):
        raise TypeError(f"{setting}={value!r} is not accepted; give true or false")
    return value


def _is_real(value: Any) -> bool:
    value = to_python(value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)
