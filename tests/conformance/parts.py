"""The table of parts. A new strategy, threshold, schedule or pattern is one row here."""

from __future__ import annotations

from typing import Any

import pytest

STRATEGIES: dict[str, dict[str, Any]] = {
    "magnitude": {"name": "magnitude"},
    "sigmoid": {"name": "sigmoid"},
    "taylor": {"name": "taylor"},
    "fisher": {"name": "fisher"},
    "random": {"name": "random"},
    "rigl": {"name": "rigl", "exchange": 0.3},
    "set": {"name": "set"},
    "static": {"name": "static"},
    "snip": {"name": "snip"},
    "movement": {"name": "movement"},
    "straight_through": {"name": "straight_through"},
    "surgery": {"name": "surgery"},
    "wanda": {"name": "wanda"},
}
THRESHOLDS: dict[str, dict[str, Any]] = {
    "topk": {"name": "topk"},
    "fixed": {"name": "fixed", "theta": 0.51},
    "mean": {"name": "mean", "rate": 0.1},
    "std": {"name": "std", "c": -0.5},
    "hysteresis": {"name": "hysteresis"},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {"name": "constant", "begin": 3, "end": 16, "every": 4},
    "one_shot": {"name": "one_shot", "begin": 6},
    "linear": {"name": "linear", "begin": 3, "end": 16, "every": 3},
    "cubic": {"name": "cubic", "begin": 3, "end": 16, "every": "2 steps"},
    "exponential": {"name": "exponential", "begin": 0.1, "end": 0.8, "every": 0.1},
    "cosine": {"name": "cosine", "begin": "1 epoch", "end": "4 epochs", "every": "1 epoch"},
    "acdc": {"name": "acdc", "begin": 0, "end": 14, "every": 4},
}
# The other way of hysteresis: T frozen at the first update.
FROZEN: dict[str, Any] = {"name": "hysteresis", "c": 0.5, "gamma": 0.05}
PATTERNS: dict[str, dict[str, Any]] = {
    "element": {"name": "element"},
    "n_m": {"name": "n_m", "n": 1, "m": 4, "pad": True},
    "block": {"name": "block", "rows": 4, "columns": 1, "pad": True},
    "channel": {"name": "channel"},
    "head": {"name": "head"},
}
RETURNING = ("movement", "rigl", "set", "straight_through", "surgery")
# What a pattern does not go with: strategies, schedules.
REFUSED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "n_m": (("rigl", "set"), ()),
    "channel": (RETURNING, ("acdc",)),
    "head": (RETURNING, ("acdc",)),
}


# Thresholds that keep as many as the schedule leaves.
def is_exact(threshold: dict[str, Any]) -> bool:
    return threshold["name"] == "topk" or (threshold["name"] == "hysteresis" and "c" not in threshold)


# What topk does besides its default scope; each scope meets the target as exactly.
SCOPES = ("global", "uniform", "erk")


def goes_together(strategy: str, threshold: str, schedule: str, pattern: str) -> bool:
    """Return whether a combination is allowed, and tested: those of single connections all are."""
    strategies, schedules = REFUSED.get(pattern, ((), ()))
    if strategy == "fisher" and schedule == "acdc":  # which begins before the first step
        return False
    if strategy in strategies or schedule in schedules:
        return False
    if pattern == "element":
        return True
    if threshold == "mean":
        return schedule == "cubic"
    return threshold == "topk" and schedule in ("cubic", "cosine", "acdc")


COMBINATIONS = [
    pytest.param(
        {"strategy": strategy, "threshold": threshold, "schedule": schedule, "pattern": pattern},
        id=f"{strategy['name']}-{threshold['name']}{'_c' * ('c' in threshold)}-{schedule['name']}-{pattern['name']}",
    )
    for strategy in STRATEGIES.values()
    for threshold in [*THRESHOLDS.values(), FROZEN]
    for schedule in SCHEDULES.values()
    for pattern in PATTERNS.values()
    if goes_together(strategy["name"], threshold["name"], schedule["name"], pattern["name"])
]
