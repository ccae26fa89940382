"""Promises 1 to 5, 7 and 8 for every strategy x threshold x schedule x pattern, in a plain PyTorch loop."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_dynprune.patterns import PATTERNS
from lightning_dynprune.schedules import SCHEDULES
from lightning_dynprune.selection.scores import NonFiniteError
from lightning_dynprune.strategies import STRATEGIES
from lightning_dynprune.thresholds import THRESHOLDS
from tests.conformance import parts
from tests.conformance.loop import STEPS, Run, network_for, same

pytestmark = pytest.mark.filterwarnings("ignore:.*is down to min_kept")


@dataclass
class Step:
    """What a step of a training made: its updates, and the masks and weights of all targets behind it."""

    sparsity_before: float
    updates: list[Any]
    masks: list[Tensor]
    weights: list[Tensor]


@dataclass
class Training:
    """A training to its end, and copies of it on its way, one for each test that goes on from it."""

    settings: dict[str, Any]
    run: Run
    parameters: dict[str, torch.nn.Parameter]
    steps: list[Step] = field(default_factory=list)
    copies: dict[int, Run] = field(default_factory=dict)
    saved: bytes = b""


COPIED_AT = (10, 12)
SAVED_AT = 11


@pytest.fixture(scope="module", params=parts.COMBINATIONS)
def training(request):
    """Train with a combination of settings, once for all tests that look at it."""
    run = Run(request.param)
    made = Training(request.param, run, dict(run.net.named_parameters()))
    for done in range(1, STEPS + 1):
        before, updates = run.pruner.sparsity, run.step()
        masks = [mask.clone() for mask in run.pruner.masks.tensors]
        made.steps.append(Step(before, updates, masks, [t.parameter.detach().clone() for t in run.pruner.targets]))
        if done in COPIED_AT:
            made.copies[done] = copy.deepcopy(run)
        if done == SAVED_AT:
            file = io.BytesIO()
            torch.save(run.state(), file)
            made.saved = file.getvalue()
    return made


@pytest.mark.parametrize(
    ("registry", "table"),
    [
        (STRATEGIES, parts.STRATEGIES),
        (THRESHOLDS, parts.THRESHOLDS),
        (SCHEDULES, parts.SCHEDULES),
        (PATTERNS, parts.PATTERNS),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_every_registered_part_is_in_the_table(registry, table):
    assert set(registry.names()) == set(table)


def connections_of_a_unit(run: Run) -> int:
    """Return how many connections the largest unit has; what a single connection is off by is rounding."""
    return run.pruner.unit if run.pruner.unit > 1 else 0


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().view(torch.int32)


def test_promises_hold_at_every_step(training):
    run, settings = training.run, training.settings
    plain = network_for(settings)
    total = run.pruner.masks.total
    exact = parts.is_exact(settings["threshold"])
    returns = run.pruner.strategy.latent or settings["schedule"]["name"] == "acdc"
    unit = connections_of_a_unit(run)
    for step in training.steps:
        for update in step.updates:
            pruned = sum(int((~mask).sum()) for mask in step.masks)
            due = math.floor(update.scheduled_sparsity * total + 0.5)
            # Promise 3: to the unit, or under the ceiling; back up only where latent weights or the schedule ask.
            assert abs(pruned - due) <= unit / 2 if exact else pruned <= due + unit / 2
            assert update.sparsity == pytest.approx(pruned / total)
            assert returns or update.sparsity >= step.sparsity_before - 1e-12
        for weight, mask in zip(step.weights, step.masks, strict=True):
            # Promise 2: +0.0 to the bit, momentum and weight decay notwithstanding.
            assert not bits(weight)[~mask].any()
            # Promise 4: no dead layer.
            assert int(mask.sum()) >= 1
    assert any(step.updates for step in training.steps)
    # Promise 1: same objects, names, order, keys and shapes; strictly loadable; copyable.
    parameters = training.parameters
    assert [(n, id(p)) for n, p in run.net.named_parameters()] == [(n, id(p)) for n, p in parameters.items()]
    assert list(run.net.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(run.net.state_dict(), strict=True)
    assert same(dict(copy.deepcopy(run.net).state_dict()), dict(run.net.state_dict()))
    assert not any(m._forward_pre_hooks or m._forward_hooks or m._backward_hooks for m in run.net.modules())


def test_a_resumed_run_is_the_unbroken_run_to_the_bit(training):
    resumed = Run(training.settings)
    resumed.load(torch.load(io.BytesIO(training.saved), weights_only=True))
    assert resumed.done == SAVED_AT
    resumed.finish()
    assert same(resumed.state(), training.run.state())


class NoSync(TorchDispatchMode):
    """Refuses operations that make the host wait for the device."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(wait in str(func) for wait in self.waits), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def test_a_step_that_does_not_update_neither_waits_nor_allocates_more_than_a_byte_a_connection(training):
    run = training.copies[12]
    assert sum(m.numel() * m.element_size() for m in run.pruner.masks.tensors) == run.pruner.masks.total
    packed = run.pruner.state_dict()["masks"]
    assert all(packed[t.name].numel() == math.ceil(t.numel / 8) for t in run.pruner.targets)
    while run.pruner.schedule.is_due(dataclass_next(run.pruner.clock), "steps"):
        run.step()
    with NoSync():
        run.pruner.observe()
        assert run.pruner.tick() is None


def dataclass_next(clock):
    return type(clock)(clock.step + 1, clock.epoch)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_stops_the_update_and_changes_nothing(training, bad):
    run = training.copies[10]
    target = run.pruner.targets[1]
    entries, kept = target.parameter.detach().view(-1), run.pruner.masks.tensors[1].view(-1).nonzero()[0]
    finite = entries[kept].clone()
    entries[kept] = bad
    weights = [bits(t.parameter).clone() for t in run.pruner.targets]
    masks = [m.clone() for m in run.pruner.masks.tensors]
    with pytest.raises(NonFiniteError, match=target.name):
        run.pruner.update(0.9)
    assert same([bits(t.parameter) for t in run.pruner.targets], weights)
    assert same([m.view(torch.uint8) for m in run.pruner.masks.tensors], [m.view(torch.uint8) for m in masks])
    entries[kept] = finite  # for the next value


@pytest.mark.parametrize("scope", parts.SCOPES)
@pytest.mark.parametrize("strategy", parts.STRATEGIES.values(), ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.333, 0.9, 0.999])
def test_every_scope_meets_the_sparsity_to_one_connection(strategy, scope, sparsity):
    run = Run(
        {
            "strategy": strategy,
            "threshold": {"name": "topk", "scope": scope},
            "schedule": {"name": "cubic", "begin": 1, "end": 15, "every": 2},
        },
        sparsity=sparsity,
    )
    total = run.pruner.masks.total
    most = total - len(run.pruner.targets)  # one connection stays in each
    for update in run.finish():
        assert round(update.sparsity * total) == min(math.floor(update.scheduled_sparsity * total + 0.5), most)
    assert round(run.pruner.sparsity * total) == min(math.floor(sparsity * total + 0.5), most)


def test_scores_that_are_not_finite_leave_no_note_in_the_masks():
    run = Run({"strategy": "magnitude", "schedule": parts.SCHEDULES["linear"]})
    for _ in range(8):
        run.step()

    class Overflowing(STRATEGIES.base):
        def score(self, target):
            scores = target.weight.abs()
            return scores / 0.0 if target.name == "6.weight" else scores

    run.pruner.strategy = Overflowing()
    masks = [m.clone() for m in run.pruner.masks.tensors]
    with pytest.raises(NonFiniteError, match=r"scores of 6\.weight"):
        run.pruner.update(0.85)
    assert same([m.view(torch.uint8) for m in run.pruner.masks.tensors], [m.view(torch.uint8) for m in masks])
    run.pruner.strategy = STRATEGIES.build("magnitude")
    run.finish()
    assert run.pruner.sparsity == pytest.approx(0.8, abs=1 / run.pruner.masks.total)
