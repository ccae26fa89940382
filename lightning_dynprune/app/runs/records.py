"""The readers of the JSON files that a run writes, which check every value that is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from lightning_dynprune.app.runs.override_list import validate_overrides
from lightning_dynprune.base import is_number, is_whole, read_json

_SHARES = ("sparsity", "target_sparsity", "accuracy")
_SHARES_OR_NONE = ("val_accuracy", "dense_accuracy", "dense_val_accuracy")
_COUNTS = ("nonzero", "parameters", "seed")
# What the report of a sweep takes of a job's results.
REPORTED = (*_SHARES, *_SHARES_OR_NONE, *_COUNTS, "compression", "adaptive")


def read_record(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ValueError: the file is damaged, too large or holds no object; the message names it.
        OSError: the file cannot be read.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is damaged: it holds a {type(content).__name__}, not an object")
    return content


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of a job's ``results.json`` after checking every figure that the report of a sweep uses.

    Raises:
        ValueError: the file is damaged; the message names it and the figure.
        OSError: the file cannot be read.
    """
    results = read_record(path)
    _check_overrides(path, results)
    for figure in (*_SHARES, *_SHARES_OR_NONE):
        is_none = figure in _SHARES_OR_NONE and figure in results and results[figure] is None
        if not (is_none or is_share(results.get(figure))):
            _raise_damaged(path, figure, "a number from 0 to 1")
    for figure in _COUNTS:
        if not _is_count(results.get(figure)):
            _raise_damaged(path, figure, "a whole number")
    if not is_number(results.get("compression")) or results["compression"] < 0:
        _raise_damaged(path, "compression", "a number of at least 0")
    _check_per_input(path, results.get("adaptive"))
    return results


def read_failure(path: Path) -> dict[str, Any]:
    """Return the content of a failed job's ``error.json``.

    Raises:
        ValueError: the file is damaged; the message names it.
        OSError: the file cannot be read.
    """
    failure = read_record(path)
    _check_overrides(path, failure)
    if not isinstance(failure.get("error"), str):
        _raise_damaged(path, "error", "a text")
    return failure


def read_dense_record(path: Path, key: str) -> dict[str, Any] | None:
    """Return the figures of a dense baseline; None if they belong to other settings.

    Raises:
        ValueError: the file is damaged; the message names it and the figure.
        OSError: the file cannot be read.
    """
    record = read_record(path)
    if record.get("key") != key:
        return None
    if not is_share(record.get("accuracy")):
        _raise_damaged(path, "accuracy", "a number from 0 to 1")
    if not is_share(record.get("val_accuracy")) and record.get("val_accuracy", 0) is not None:
        _raise_damaged(path, "val_accuracy", "a number from 0 to 1")
    for figure in ("seconds", "bytes"):
        if not is_number(record.get(figure)) or record[figure] < 0:
            _raise_damaged(path, figure, "a number of at least 0")
    if not is_curve(record.get("val_curve")):
        _raise_damaged(path, "val_curve", "a list of steps and shares")
    return record


def is_share(value: Any) -> bool:
    """Return whether a value is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def is_curve(value: Any) -> bool:
    """Return whether a value is a list of points, each a step and a share."""
    return isinstance(value, list) and all(
        isinstance(point, (list, tuple)) and len(point) == 2 and _is_count(point[0]) and is_share(point[1])
        for point in value
    )


def _check_per_input(path: Path, adaptive: Any) -> None:
    """Raise unless the figures of per-input pruning that a sweep reports are numbers, or there is none."""
    if adaptive is None:
        return
    figures = adaptive.get("figures") if isinstance(adaptive, dict) else None
    if not isinstance(figures, dict):
        _raise_damaged(path, "adaptive", "an object with figures")
    for name in ("accuracy", "compute_mean", "compute_p5", "compute_p95"):
        # With the heads, an input that runs to the end costs more than the network.
        if not is_number(figures.get(name)) or figures[name] < 0 or (name == "accuracy" and figures[name] > 1):
            _raise_damaged(path, f"adaptive.figures.{name}", "a number of at least 0")
    correlation = figures.get("rank_correlation")
    if correlation is not None and not is_number(correlation):
        _raise_damaged(path, "adaptive.figures.rank_correlation", "a number or null")


def _check_overrides(path: Path, content: dict[str, Any]) -> None:
    try:
        validate_overrides(content.get("overrides"))
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None


def _is_count(value: Any) -> bool:
    return is_whole(value) and 0 <= value < 2**63


def _raise_damaged(path: Path, figure: str, expected: str) -> NoReturn:
    raise ValueError(f"{path.name} is damaged: {figure} is missing or is not {expected}")
