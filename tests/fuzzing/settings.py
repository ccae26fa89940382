"""Settings of a pruning as hypothesis draws them: those that are meant to work, and those that are not."""

from __future__ import annotations

import math
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from lightning_dynprune.schedules import Cosine
from tests.conformance.parts import PATTERNS, STRATEGIES

EXAMPLES = int(os.environ.get("DYNPRUNE_FUZZ", "0"))
NUMBERS = (math.nan, math.inf, -math.inf, -1, -0.5, 1.5, 10**400, -(2**70), 1e308, True, 0)
JUNK = (*NUMBERS, None, "", "a", "9" * 400, b"x", [], ["a", 1], {}, {"a": 1}, {1: 2, "b": 3}, {"name": None}, object())
junk = st.sampled_from(JUNK)
shares = st.floats(0, 0.99)


def settings_of(name: str, **settings: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return mappings of a part's name and any of its settings."""
    return st.fixed_dictionaries({"name": st.just(name)}, optional=settings)


moments = st.one_of(
    st.integers(0, 8),
    st.floats(0, 1),
    st.integers(0, 8).map("{} steps".format),
    st.integers(0, 2).map("{} epochs".format),
)
spans = {"begin": moments, "end": moments, "every": moments, "initial": shares}
schedules = st.one_of(
    st.none(),
    st.fixed_dictionaries({}, optional={key: spans[key] for key in ("begin", "every")}),
    settings_of("one_shot", begin=moments),
    settings_of("cubic", power=st.floats(0.1, 9), **spans),
    *(settings_of(name, **spans) for name in ("constant", "linear", "exponential", "cosine", "acdc")),
)
thresholds = st.one_of(
    st.none(),
    settings_of("topk", scope=st.sampled_from(["global", "uniform", "erk", "layer"])),
    settings_of("fixed", theta=st.floats(-1, 1)),
    settings_of("mean", rate=st.floats(-5, 1)),
    settings_of("std", c=st.floats(-9, 9)),
    settings_of("hysteresis", c=st.one_of(st.none(), st.floats(-2, 2), st.just({"*": 0.5})), gamma=st.floats(0, 9)),
)
strategies = st.one_of(
    st.sampled_from(sorted(STRATEGIES)),
    settings_of("magnitude", norm=st.sampled_from([1, 2])),
    settings_of("sigmoid", signed=st.booleans()),
    settings_of("taylor", decay=st.floats(0, 1)),
    settings_of("movement", penalty=st.floats(0, 9)),
    settings_of("wanda", per_row=st.booleans()),
    *(
        settings_of(name, exchange=st.one_of(shares, st.builds(Cosine, shares, shares)), start=st.just("magnitude"))
        for name in ("rigl", "set")
    ),
)
sizes = st.integers(1, 9)
patterns = st.one_of(
    st.sampled_from(sorted(PATTERNS)),
    settings_of("n_m", n=sizes, m=sizes, pad=st.booleans()),
    settings_of("block", rows=sizes, columns=sizes, pad=st.booleans()),
    settings_of("channel", round_to=sizes, relative=st.booleans()),
    settings_of("head", heads=st.one_of(st.none(), st.just({"*attention": 2})), relative=st.booleans()),
)
own = st.fixed_dictionaries({}, optional={"sparsity": shares, "min_kept": st.integers(1, 9)})
targets = st.one_of(
    st.none(), st.sampled_from(["*weight", "*", "*.bias", ["0.*", "2.*"]]), st.dictionaries(st.just("*"), shares | own)
)
good = st.fixed_dictionaries(
    {"sparsity": st.integers(0, 8).flatmap(lambda number: shares if number else st.none()), "strategy": strategies},
    optional={
        "threshold": thresholds,
        "schedule": schedules,
        "pattern": st.one_of(st.just("element"), patterns),
        "targets": targets,
        "exclude": st.sampled_from([(), "*bias", ["2.*"], "nothing.*"]),
        "min_kept": st.integers(1, 80),
        "reconstruct": st.booleans(),
        "rewind": st.integers(0, 9),
        "journal": st.one_of(
            st.booleans(),
            st.fixed_dictionaries({}, optional={"remember_values": st.booleans(), "cap": st.floats(0, 9) | st.none()}),
        ),
        "seed": st.integers(-(2**65), 2**65),
    },
)


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    """Return plain settings of which one, or one of a part's, has any value whatever, and the setting's name."""
    settings: dict[str, Any] = {"sparsity": 0.5, "strategy": {"name": "magnitude"}, "seed": 1}
    setting, inner = draw(st.sampled_from(PLACES))
    value = draw(junk)
    if inner is None:
        return {**settings, setting: value}, setting
    part, *names = inner.split(".")
    return {**settings, setting: {"name": part, **NEEDED.get(part, {}), names[0]: value}}, names[0]


NEEDED = {"block": {"rows": 4}}


PLACES: list[tuple[str, str | None]] = [
    *((name, None) for name in ("sparsity", "strategy", "threshold", "schedule", "pattern", "targets", "exclude")),
    *((name, None) for name in ("min_kept", "reconstruct", "rewind", "journal", "seed")),
    *(("strategy", part) for part in ("magnitude.norm", "sigmoid.signed", "taylor.decay", "movement.penalty")),
    *(("strategy", part) for part in ("rigl.exchange", "set.exchange", "set.start", "wanda.per_row", "random.other")),
    *(("threshold", part) for part in ("topk.scope", "fixed.theta", "mean.rate", "std.c", "hysteresis.c")),
    *(("threshold", f"hysteresis.{name}") for name in ("a", "b", "gamma", "power", "scope")),
    *(("schedule", f"cubic.{name}") for name in ("final", "initial", "begin", "end", "every", "power")),
    *(("schedule", part) for part in ("one_shot.begin", "exponential.initial", "acdc.every", "linear.span")),
    *(("pattern", f"block.{name}") for name in ("rows", "columns", "pad")),
    *(("pattern", f"n_m.{name}") for name in ("n", "m", "pad")),
    *(("pattern", part) for part in ("channel.round_to", "channel.relative", "head.heads")),
]  # fmt: skip


def examples(few: int) -> settings:
    """Return how many examples a test draws: the same few each time, or as many new ones as DYNPRUNE_FUZZ says."""
    return settings(
        max_examples=EXAMPLES or few,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
