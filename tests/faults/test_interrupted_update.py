"""An update happens whole or not at all, whatever is raised in it, wherever: an exception injected at every line."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch

import lightning_dynprune
from tests.conformance import parts
from tests.conformance.loop import Run, same

PACKAGE = str(Path(lightning_dynprune.__file__).parent)
RAISED = (KeyboardInterrupt, MemoryError)
Place = tuple[str, int]
RETRIED_EVERY = 10
LATENT = ("straight_through", "surgery")
SCHEDULE = {"name": "constant", "begin": 3, "end": 16, "every": 4}
FIRST, LATER = 3, 11  # updates of the schedule: the first cuts, later ones find pruned connections

pytestmark = pytest.mark.filterwarnings("ignore:.*is down to min_kept", "ignore:no gradient has reached")


@pytest.fixture(autouse=True)
def _end_autocast():
    """End the regions of ``torch.autocast`` that were left open.

    An exception that is raised at the line where a ``with`` block ends comes before its ``__exit__``; the weights that
    autocast caches would then be those of the next test.
    """
    yield
    while (open_regions := torch.autocast_decrement_nesting()) > 0:
        pass
    if open_regions < 0:
        torch.autocast_increment_nesting()
    torch.clear_autocast_cache()
    torch.set_autocast_enabled("cpu", False)


class Passed:
    """Notes the lines of the package that a call passes: how often each, in which code."""

    def __init__(self) -> None:
        self.times: dict[Place, int] = {}
        self.codes: dict[Place, list[CodeType]] = {}

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            place = code.co_filename, frame.f_lineno
            self.times[place] = self.times.get(place, 0) + 1
            codes = self.codes.setdefault(place, [])
            if not any(each is code for each in codes):
                codes.append(code)
        return self


class Injection:
    """Raises an exception at one passage of a line; only the code that holds the line is traced, for speed.

    Args:
        place: the line.
        passage: which passage of the line raises, from 1.
        codes: the code in which the line was passed.
        error: what is raised.
    """

    def __init__(self, place: Place, passage: int, codes: list[CodeType], error: type[BaseException]) -> None:
        self.line, self.left, self.error = place[1], passage, error
        self.codes = {id(code) for code in codes}
        self.has_raised = False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if id(frame.f_code) not in self.codes:
            return None
        if event == "line" and frame.f_lineno == self.line:
            self.left -= 1
            if not self.left:
                self.has_raised = True
                raise self.error(f"injected at {frame.f_code.co_filename}:{frame.f_lineno}")
        return self


def traced(trace: Passed | Injection, act: Callable[[], Any]) -> None:
    """Run ``act`` with a function that traces it."""
    before = sys.gettrace()
    sys.settrace(trace)
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
    run.pruner.apply()
    return run


def copied(run: Run) -> Run:
    """Return a deep copy of a run, gradients among it, which a copy of a parameter lacks."""
    copy_of = copy.deepcopy(run)
    for own, other in zip(run.net.parameters(), copy_of.net.parameters(), strict=True):
        other.grad = None if own.grad is None else own.grad.clone()
    return copy_of


def chosen(passed: Passed, seen: set[Place]) -> Iterator[tuple[Place, int]]:
    """Yield the passages to raise at: the first and the last of every line that no other case has raised at."""
    for place, times in passed.times.items():
        if place not in seen:
            yield from ((place, passage) for passage in sorted({1, times}))
    seen.update(passed.times)


def check_every_line(run: Run, act: Callable[[Run], Any], seen: set[Place]) -> int:
    """Raise at the lines of an act on a run; whatever was raised, all of the act was done or none of it.

    Returns:
        How often an exception was raised.
    """
    start = run.state()
    passed, reference = Passed(), copied(run)
    traced(passed, lambda: act(reference))
    end = reference.state()
    assert not same(start, end)
    count, tried = 0, copied(run)
    for place, passage in chosen(passed, seen):
        injection = Injection(place, passage, passed.codes[place], RAISED[count % 2])
        where = "{}:{}".format(*place)
        try:
            traced(injection, lambda: act(tried))  # noqa: B023
        except injection.error:
            pass
        else:  # what an earlier try has cached is not made again, so that there are fewer lines
            assert not injection.has_raised, f"{where}: the exception is lost"
            assert same(tried.state(), end), where
            tried = copied(run)
            continue
        for mask in tried.pruner.masks.tensors:
            assert mask.view(torch.uint8).max() <= 1, where
        count += 1
        state = tried.state()
        if same(state, start):
            if count % RETRIED_EVERY:
                continue  # the next exception meets whatever this one has left behind
            act(tried)
            assert same(tried.state(), end), f"{where}: a second try after it does something else"
        else:
            assert same(state, end), f"{where}: neither as before nor as after"
        tried = copied(run)
    return count


SEEN: dict[tuple[str, bool], set[Place]] = {}
CASES = [
    pytest.param(
        {"strategy": strategy, "pattern": pattern, "schedule": SCHEDULE, "threshold": "topk"},
        id=f"{name}-{pattern['name']}",
    )
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
    assert count or seen


RETURNING = {"strategy": {"name": "magnitude"}, "schedule": {"name": "acdc", "begin": 0, "end": 14, "every": 4}}
OTHERS = {
    "restored": ({"strategy": {"name": "magnitude"}, "schedule": SCHEDULE}, lambda run: run.pruner.restore(3)),
    "restored_with_values": (
        {"strategy": {"name": "magnitude"}, "schedule": SCHEDULE, "journal": {"remember_values": True}},
        lambda run: run.pruner.restore(3),
    ),
    "restored_latent": ({"strategy": {"name": "surgery"}, "schedule": SCHEDULE}, lambda run: run.pruner.restore(3)),
    "restored_channels": (
        {"strategy": {"name": "magnitude"}, "schedule": SCHEDULE, "pattern": {"name": "channel"}},
        lambda run: run.pruner.restore(3),
    ),
    "slimmed": (
        {"strategy": {"name": "taylor"}, "schedule": SCHEDULE, "pattern": {"name": "channel"}},
        lambda run: run.pruner.slim(),
    ),
    "rewound": ({"strategy": {"name": "magnitude"}, "schedule": SCHEDULE, "rewind": 2}, lambda run: run.pruner.tick()),
    "refitted": (
        {"strategy": {"name": "wanda"}, "schedule": SCHEDULE, "reconstruct": True},
        lambda run: run.pruner.tick(),
    ),
    "frozen_threshold": (
        {"strategy": {"name": "magnitude"}, "schedule": SCHEDULE, "threshold": parts.FROZEN},
        lambda run: run.pruner.tick(),
    ),
    "unrecorded": (
        {"strategy": {"name": "magnitude"}, "schedule": SCHEDULE, "journal": False},
        lambda run: run.pruner.tick(),
    ),
    "dense_again": (RETURNING, lambda run: run.pruner.tick()),
    **{
        f"threshold_{name}": (
            {"strategy": {"name": "magnitude"}, "schedule": SCHEDULE, "threshold": threshold},
            lambda run: run.pruner.tick(),
        )
        for name, threshold in parts.THRESHOLDS.items()
    },
    **{
        f"schedule_{name}": ({"strategy": {"name": "magnitude"}, "schedule": schedule}, lambda run: run.pruner.update())
        for name, schedule in parts.SCHEDULES.items()
    },
}


@pytest.mark.parametrize(("settings", "act"), OTHERS.values(), ids=OTHERS)
def test_other_changes_of_masks_are_whole_or_have_not_begun(settings, act):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = before_update(settings, 8 if settings is RETURNING else LATER)
        seen = SEEN.setdefault(("others", run.pruner.strategy.latent), set())
        count = check_every_line(run, act, seen)
    assert count or seen
