"""An update happens whole or not at all, whatever is raised in it, wherever: an exception injected at every line."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import lightning_dynprune
from tests.conformance import parts
from tests.conformance.loop import Run, same

PACKAGE = str(Path(lightning_dynprune.__file__).parent)
RAISED = (KeyboardInterrupt, MemoryError)
Place = tuple[str, int]
LATENT = ("straight_through", "surgery")
SCHEDULE = {"name": "constant", "begin": 3, "end": 16, "every": 4}
FIRST, LATER = 3, 11  # updates of the schedule: the first cuts, later ones find pruned connections

pytestmark = pytest.mark.filterwarnings("ignore:.*is down to min_kept", "ignore:no gradient has reached")


class Injection:
    """Raises an exception at a line event of the package, and notes which lines it passed.

    Args:
        at: which line event raises, from 0; None: none does.
        error: what is raised.
    """

    def __init__(self, at: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.at, self.error = at, error
        self.places: list[Place] = []
        self.has_raised = False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and not self.has_raised:
            if len(self.places) == self.at:
                self.has_raised = True
                raise self.error(f"injected at {frame.f_code.co_filename}:{frame.f_lineno}")
            self.places.append((frame.f_code.co_filename, frame.f_lineno))
        return self


def traced(injection: Injection, act: Callable[[], Any]) -> None:
    """Run ``act`` with an injection in place."""
    before = sys.gettrace()
    sys.settrace(injection)
    try:
        act()
    finally:
        sys.settrace(before)


def before_update(settings: dict[str, Any], step: int) -> Run:
    """Return a run whose next tick makes the update of a step; its optimizer has stepped."""
    run = Run(settings)
    for _ in range(step - 1):
        run.step()
    run.pruner.tick = lambda: None  # type: ignore[method-assign]
    run.step()
    del run.pruner.tick
    return run


def chosen(places: list[Place], seen: set[Place]) -> Iterator[int]:
    """Yield the events to raise at: the first and the last of every line that no other case has raised at."""
    for place in dict.fromkeys(places):
        if place not in seen:
            first = places.index(place)
            last = len(places) - 1 - places[::-1].index(place)
            yield from {first, last}
    seen.update(places)


def check_every_line(run: Run, act: Callable[[Run], Any], seen: set[Place]) -> int:
    """Raise at the lines of an act on a run; whatever was raised, all of the act was done or none of it.

    Returns:
        How often an exception was raised.
    """
    start = run.state()
    complete, reference = Injection(), copy.deepcopy(run)
    traced(complete, lambda: act(reference))
    end = reference.state()
    assert not same(start, end)
    count = 0
    for at in chosen(complete.places, seen):
        tried = copy.deepcopy(run)
        injection = Injection(at, RAISED[count % 2])
        where = "{}:{}".format(*complete.places[at])
        with pytest.raises(injection.error, match="injected at"):
            traced(injection, lambda tried=tried: act(tried))
        state = tried.state()
        for mask in tried.pruner.masks.tensors:
            assert mask.view(dtype=torch.uint8).max() <= 1, where
        if same(state, start):
            act(tried)
            assert same(tried.state(), end), f"{where}: a second try after it does something else"
        else:
            assert same(state, end), f"{where}: neither as before nor as after"
        count += 1
    return count


SEEN: dict[tuple[str, bool], set[Place]] = {}
CASES = [
    pytest.param({"strategy": strategy, "pattern": pattern, "schedule": SCHEDULE}, id=f"{name}-{pattern['name']}")
    for pattern in parts.PATTERNS.values()
    for name, strategy in parts.STRATEGIES.items()
    if parts.goes_together(name, "topk", "cubic", pattern["name"])
]


@pytest.mark.parametrize("settings", CASES)
def test_an_update_interrupted_at_any_line_is_whole_or_has_not_begun(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = SEEN.setdefault((settings["pattern"]["name"], settings["strategy"]["name"] in LATENT), set())
        count = check_every_line(before_update(settings, FIRST), lambda run: run.pruner.tick(), seen)
        count += check_every_line(before_update(settings, LATER), lambda run: run.pruner.tick(), seen)
    assert count
