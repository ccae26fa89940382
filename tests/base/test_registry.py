"""Parts by name, by mapping, as instances."""

from __future__ import annotations

import pytest

from lightning_dynprune.patterns import PATTERNS
from lightning_dynprune.schedules import SCHEDULES
from lightning_dynprune.strategies import STRATEGIES, Magnitude
from lightning_dynprune.thresholds import THRESHOLDS, TopK


def test_a_part_is_built_from_each_form():
    instance = Magnitude(norm=2)
    assert STRATEGIES.build("magnitude") == Magnitude()
    assert STRATEGIES.build({"name": "magnitude", "norm": 2}) == instance
    assert STRATEGIES.build(instance) is instance
    assert THRESHOLDS.build({"name": "topk"}, scope="erk") == TopK("erk")


@pytest.mark.parametrize(
    ("registry", "message"),
    [
        (STRATEGIES, "strategy='nope' is unknown; known: fisher, magnitude, movement, random"),
        (THRESHOLDS, "threshold='nope' is unknown; known: fixed, topk, hysteresis"),
        (SCHEDULES, "schedule='nope' is unknown; known: acdc, constant, one_shot"),
        (PATTERNS, "pattern='nope' is unknown; known: block, channel, element, head, n_m"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_an_unknown_name_lists_the_known_ones(registry, message):
    with pytest.raises(ValueError, match=message):
        registry.build("nope")


def test_an_unknown_setting_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"strategy 'magnitude' has no setting 'power'; it has: norm$"):
        STRATEGIES.build({"name": "magnitude", "power": 2})
    with pytest.raises(ValueError, match=r"schedule 'one_shot' has no setting 'end'; it has: begin, final, initial$"):
        SCHEDULES.build({"name": "one_shot", "end": 3, "final": 0.5})


@pytest.mark.parametrize("spec", [None, 3, {"norm": 1}, Magnitude])
def test_another_form_is_refused(spec):
    with pytest.raises(TypeError, match="is not accepted; give a name"):
        STRATEGIES.build(spec)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="strategy='magnitude' is registered already"):
        STRATEGIES.register("magnitude")(TopK)
