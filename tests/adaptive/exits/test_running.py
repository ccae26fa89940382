"""Inputs leave at their exits: the same at batch 7 as alone, and the rest of the forward is not run."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_dynprune.adaptive import Adapted, EarlyExits, adapt
from lightning_dynprune.adaptive.exits.running import ExitRunner, HookRunner
from tests.adaptive.networks import Skipping, Tokens, Untraceable, adapted, images, trained


@pytest.fixture(scope="module", params=[Skipping, Untraceable], ids=["stages", "hooks"])
def found(request) -> Adapted:
    torch.manual_seed(0)
    return adapted(trained(request.param()))


def exits_of(found: Adapted) -> list[int]:
    return found.runner().exits.tolist()


def test_a_network_that_traces_runs_by_stages_and_another_by_hooks(found):
    runner = found.runner(images(3)[0])
    assert isinstance(runner, HookRunner if isinstance(found.model, Untraceable) else ExitRunner)


def test_seven_inputs_get_what_each_gets_alone(found):
    x = images(7, seed=11)[0]
    together, exits = found(x), exits_of(found)
    assert len(set(exits)) > 1, "the inputs should not all leave at one place"
    alone, own = [], []
    for each in x.split(1):
        alone.append(found(each))
        own += exits_of(found)
    assert exits == own
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_the_dense_forward_tells_the_same_exits_and_scores(found):
    x = images(50, seed=12)[0]
    scores, exits = found(x), exits_of(found)
    outcome = found.module.outcome(found.model, x)
    assert outcome.path.tolist() == exits
    assert torch.allclose(outcome.scores, scores, atol=1e-5)
    assert outcome.compute.tolist() == [found.module.costs[number] for number in exits]
    ends = outcome.path == len(found.module.cuts)
    assert torch.equal(outcome.scores[ends], outcome.dense[ends])


def test_the_rest_of_the_forward_is_not_run(found):
    x = images(60, seed=13)[0]
    found(x)
    easy = x[found.runner().exits == 0][:1]
    ran: list[str] = []
    names = ("stem.0", "left", "last", "head")
    hooks = [
        found.model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name)) for name in names
    ]
    try:
        found(easy)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == ["stem.0"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_input_that_is_not_finite_runs_to_the_end_as_dense_does(found, value):
    x = images(60, seed=14)[0]
    found(x)
    easy = x[found.runner().exits == 0][:3].clone()
    easy[1, 0, 0, 0] = value
    scores = found(easy)
    assert exits_of(found) == [0, 2, 0]
    assert torch.equal(scores[1].isfinite(), found.model(easy[1:2])[0].isfinite())
    found(easy[1:2])
    assert exits_of(found) == [2]
    assert found.module.outcome(found.model, easy).path.tolist() == [0, 2, 0]


def test_an_empty_batch_has_no_scores_and_no_exits(found):
    found(images(2)[0])
    assert found(torch.zeros(0, 1, 8, 8)).shape == (0, 4)
    assert exits_of(found) == []
    assert found.module.outcome(found.model, torch.zeros(0, 1, 8, 8)).path.tolist() == []


def test_an_exit_that_is_never_taken_is_not_run_and_costs_nothing(found):
    module = found.module
    assert isinstance(module, EarlyExits)
    kept = module.thresholds.clone()
    try:
        module.thresholds = torch.tensor([math.inf, math.inf], dtype=torch.float64)
        runner = module.runner(found.model, images(3)[0])
        assert len(runner.decisions) == 0
        assert module.costs[-1] == 1.0
        x = images(5)[0]
        assert torch.allclose(runner(x), found.model(x), atol=1e-5)
        assert runner.exits.tolist() == [2] * 5
        module.thresholds = torch.tensor([math.inf, 0.0], dtype=torch.float64)
        runner = module.runner(found.model, images(3)[0])
        runner(x)
        assert runner.exits.tolist() == [1] * 5
    finally:
        module.thresholds = kept


def test_a_token_model_leaves_by_its_last_position():
    torch.manual_seed(0)
    tokens = torch.randint(5, (64, 6))
    model = Tokens().eval()
    found = adapt(model, "early_exit", [(tokens, tokens)], [(tokens, tokens)], after=["first"], hidden=8, budget=0.8)
    (head,) = found.module.exit_heads
    assert head.kind == "last_token"
    scores = found(tokens[:7])
    assert scores.shape == (7, 5)
    ends = found.runner().exits == 1
    assert torch.allclose(scores[ends], model(tokens[:7])[:, -1][ends], atol=1e-6)
    alone = torch.cat([found(each) for each in tokens[:7].split(1)])
    assert torch.allclose(scores, alone, atol=1e-6)


def test_keyword_arguments_are_taken_in_any_order():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x, shift, scale=None):
            y = self.first(x) - shift
            return self.last(torch.relu(y if scale is None else y * scale))

    torch.manual_seed(0)
    inputs = {"x": torch.randn(12, 4), "shift": torch.randn(12, 1)}
    batch = (inputs, torch.randint(3, (12,)))
    found = adapt(Two().eval(), "early_exit", [batch], [batch], after=["first"], hidden=2, epochs=2, budget=1.0)
    expected = found(**inputs)
    assert torch.equal(found(shift=inputs["shift"], x=inputs["x"]), expected)
    assert found.module.why_pieces is None
