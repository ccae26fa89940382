"""The JSON files that a run leaves behind, read back and believed only where they are what the program writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from lightning_dynprune.base import is_number, is_whole

LARGEST = 2**26  # bytes; a million points of a curve take half of it
_SHARES = ("sparsity", "target_sparsity", "accuracy")
_SHARES_OR_NONE = ("val_accuracy", "dense_accuracy", "dense_val_accuracy")


def read_record(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ValueError: the file is damaged, too large or holds something else; the message names it.
        OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{path.name} has {size} bytes; those of this program have at most {LARGEST}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is damaged: it holds a {type(content).__name__}, not an object")
    return content


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of a job's ``results.json``, with every figure checked that a sweep's report uses.

    Raises:
        ValueError: the file is damaged; the message names it and the figure.
        OSError: it cannot be read.
    """
    results = read_record(path)
    _check_overrides(path, results)
    for figure in (*_SHARES, *_SHARES_OR_NONE):
        nothing = figure in _SHARES_OR_NONE and figure in results and results[figure] is None
        if not (nothing or is_share(results.get(figure))):
            _refuse(path, figure, "a number from 0 to 1")
    for figure in ("nonzero", "parameters", "seed"):
        if not _is_count(results.get(figure)):
            _refuse(path, figure, "a whole number")
    if not is_number(results.get("compression")) or results["compression"] < 0:
        _refuse(path, "compression", "a number of at least 0")
    return results


def read_failure(path: Path) -> dict[str, Any]:
    """Return the content of a failed job's ``error.json``.

    Raises:
        ValueError: the file is damaged; the message names it.
        OSError: it cannot be read.
    """
    failure = read_record(path)
    _check_overrides(path, failure)
    if not isinstance(failure.get("error"), str):
        _refuse(path, "error", "a text")
    return failure


def read_dense_record(path: Path, key: str) -> dict[str, Any] | None:
    """Return the figures of a dense baseline; None where they are another's.

    Raises:
        ValueError: the file is damaged; the message names it and the figure.
        OSError: it cannot be read.
    """
    control = read_record(path)
    if control.get("key") != key:
        return None
    if not is_share(control.get("accuracy")):
        _refuse(path, "accuracy", "a number from 0 to 1")
    if not is_share(control.get("val_accuracy")) and control.get("val_accuracy", 0) is not None:
        _refuse(path, "val_accuracy", "a number from 0 to 1")
    for figure in ("seconds", "bytes"):
        if not is_number(control.get(figure)) or control[figure] < 0:
            _refuse(path, figure, "a number of at least 0")
    if not is_curve(control.get("val_curve")):
        _refuse(path, "val_curve", "a list of steps and shares")
    return control


def is_share(value: Any) -> bool:
    """Return whether a value is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def is_curve(value: Any) -> bool:
    """Return whether a value is a list of points, each a step and a share."""
    return isinstance(value, list) and all(
        isinstance(point, (list, tuple)) and len(point) == 2 and _is_count(point[0]) and is_share(point[1])
        for point in value
    )


def _check_overrides(path: Path, content: dict[str, Any]) -> None:
    overrides = content.get("overrides")
    if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
        _refuse(path, "overrides", "a list of texts")


def _is_count(value: Any) -> bool:
    return is_whole(value) and 0 <= value < 2**63


def _refuse(path: Path, figure: str, expected: str) -> NoReturn:
    raise ValueError(f"{path.name} is damaged: {figure} is missing or is not {expected}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
