"""Easy inputs take a narrow copy of the network; as a cascade computed by hand, and the same at batch 7 as alone."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import nn

from lightning_dynprune.adaptive import Adapted, PrefixWidth, PrefixWidths, adapt, attach, strip
from tests.adaptive.networks import Skipping, Tokens, Untraceable, images, trained

SETTINGS = {"widths": [0.25, 0.5], "epochs": 6, "lr": 2e-2, "budget": 0.7}


def batches(count: int = 256, seed: int = 0) -> list:
    x, labels = images(count, seed)
    return list(zip(x.split(64), labels.split(64), strict=True))


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    torch.manual_seed(0)
    return trained(Skipping())


@pytest.fixture(scope="module", params=["each", "first"])
def found(request, plain) -> Adapted:
    return adapt(copy.deepcopy(plain), "prefix_width", batches(), batches(200, 1), decide=request.param, **SETTINGS)


@pytest.fixture
def module(found) -> PrefixWidths:
    assert isinstance(found.module, PrefixWidths)
    return found.module


def taken(found: Adapted) -> list[int]:
    return found.runner().exits.tolist()


def by_hand(model: nn.Module, module: PrefixWidths, x: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """Return the way and the scores of each input, one input and one network after the other."""
    ways, scores = [], []
    for each in x.split(1):
        outputs = [
            network(each) / temperature
            for network, temperature in zip(module.networks, module.temperatures, strict=True)
        ]
        sure = [float(output.softmax(1).max()) for output in outputs]
        sure = [sure[0]] * len(sure) if module.decide == "first" else sure
        passes = [s >= t for s, t in zip(sure, module.thresholds.tolist(), strict=True)]
        ways.append(passes.index(True) if any(passes) else len(passes))
        scores.append([*outputs, model(each)][ways[-1]])
    return ways, torch.cat(scores)


def test_inputs_take_the_networks_that_a_cascade_by_hand_takes(found, module):
    x = images(60, seed=11)[0]
    with torch.no_grad():
        ways, expected = by_hand(found.model, module, x)
    assert len(set(ways)) > 1, "the inputs should not all take one way"
    assert torch.allclose(found(x), expected.float(), atol=1e-4)
    assert taken(found) == ways


def test_seven_inputs_get_what_each_gets_alone(found):
    x = images(7, seed=12)[0]
    together, ways = found(x), taken(found)
    alone, own = [], []
    for each in x.split(1):
        alone.append(found(each))
        own += taken(found)
    assert ways == own
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_running_everything_tells_the_same_ways_scores_and_costs(found, module):
    x = images(50, seed=13)[0]
    scores, ways = found(x), taken(found)
    outcome = module.outcome(found.model, x)
    assert outcome.path.tolist() == ways
    assert torch.allclose(outcome.scores.float(), scores, atol=1e-4)
    assert outcome.compute.tolist() == [module.costs[way] for way in ways]
    whole = outcome.path == 2
    assert torch.equal(outcome.scores[whole].float(), outcome.dense[whole])


def test_only_the_networks_on_the_way_are_run(found, module):
    x = images(100, seed=14)[0]
    found(x)
    narrow = module.networks
    ran: list[str] = []
    modules = {"quarter": narrow[0].left, "half": narrow[1].left, "whole": found.model.left}
    hooks = [each.register_forward_hook(lambda *_, n=name: ran.append(n)) for name, each in modules.items()]
    found._runner = None
    found(x[:1])  # which traces and checks the networks
    ways = torch.tensor(taken(found))
    try:
        for way in range(3):
            found(x)
            ways = found.runner().exits
            if not (ways == way).any():
                continue
            ran.clear()
            found(x[ways == way][:1])
            steps = ["quarter", "half", "whole"]
            used = module.thresholds.isfinite().tolist()
            cascade = [s for s, u in zip(steps[:way], used, strict=False) if u] + [steps[way]]
            first = list(dict.fromkeys(["quarter", steps[way]]))
            assert ran == (first if module.decide == "first" else cascade)
    finally:
        for hook in hooks:
            hook.remove()


def test_budgets_are_met_to_two_percent_on_the_held_out_inputs(module):
    kept = module.thresholds.clone()
    try:
        for budget in (0.5, 0.8, 1.0):
            module.budget(budget)
            assert 0.98 * budget <= module.chosen.compute <= budget + 1e-12
    finally:
        module.thresholds = kept


def test_the_drop_keeps_its_limit_with_the_margin(module):
    kept = module.thresholds.clone()
    try:
        module.limit_drop(0.02, margin=1.0)
        assert module.chosen.drop + module.chosen.error <= 0.02
        assert module.chosen.compute <= 1.0
    finally:
        module.thresholds = kept


def test_costs_are_the_multiply_adds_of_the_networks_that_run():
    networks = [nn.Linear(2, 2), nn.Linear(2, 2)]
    each = PrefixWidths(networks, [0.25, 0.5], [0.1, 0.3])
    first = PrefixWidths(networks, [0.25, 0.5], [0.1, 0.3], decide="first")
    assert each.held_out.costs == pytest.approx((0.1, 0.4, 1.4))
    assert first.held_out.costs == pytest.approx((0.1, 0.4, 1.1))
    for module in (each, first):
        module.thresholds = torch.tensor([math.inf, 0.5], dtype=torch.float64)
    assert each.costs == pytest.approx((0.1, 0.3, 1.3))
    assert first.costs == pytest.approx((0.1, 0.4, 1.1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_input_that_is_not_finite_takes_the_whole_network(found, module, value):
    x = images(60, seed=15)[0]
    found(x)
    easy = x[found.runner().exits < 2][:3].clone()
    easy[1, 0, 0, 0] = value
    scores = found(easy)
    ways = taken(found)
    assert ways[1] == 2
    assert 2 not in (ways[0], ways[2])
    assert torch.equal(scores[1].isfinite(), found.model(easy[1:2])[0].isfinite())
    assert module.outcome(found.model, easy).path.tolist() == ways


def test_an_empty_batch_has_no_scores(found, module):
    assert found(torch.zeros(0, 1, 8, 8)).shape == (0, 4)
    assert taken(found) == []
    assert module.outcome(found.model, torch.zeros(0, 1, 8, 8)).path.tolist() == []


def test_the_network_is_left_alone_saved_loaded_and_stripped(found, plain):
    x = images(30, seed=16)[0]
    model, before = found.model, plain.state_dict()
    assert torch.equal(model(x), plain(x))
    state = model.state_dict()
    assert all(key.startswith("adaptive.") for key in set(state) - set(before))
    loaded = Skipping().eval()
    attach(loaded, state)
    assert loaded.load_state_dict(state).missing_keys == []
    again = Adapted(loaded.eval())
    assert torch.equal(again(x), found(x))
    assert taken(again) == taken(found)
    assert again.budget(0.6).module.chosen.compute == pytest.approx(0.6, rel=0.02)
    strip(loaded)
    assert loaded.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in loaded.state_dict().items())


def test_a_damaged_state_is_refused(found):
    state = {k: v for k, v in found.model.state_dict().items() if k != "adaptive.networks.1.left.weight"}
    with pytest.raises(ValueError, match=r"state of the widths is damaged"):
        attach(Skipping(), state)
    with pytest.raises(ValueError, match=r"state of the widths is damaged, or of another network"):
        attach(nn.Linear(2, 2), found.model.state_dict())


@pytest.mark.parametrize(
    "change", [{"widths": [0.25]}, {"shares": ["a", 1]}, {"decide": "last"}, {"widths": 3}, {"shares": None}]
)
def test_a_description_that_does_not_fit_is_refused(found, module, change):
    packed = torch.tensor(list(json.dumps(module.settings | change).encode()), dtype=torch.uint8)
    with pytest.raises(ValueError, match="state of the widths is damaged"):
        attach(Skipping(), {**found.model.state_dict(), "adaptive.description": packed})


def test_the_form_for_inference_has_no_batch_norms_and_gives_the_same_answers(found, module):
    x = images(12, seed=17)[0]
    fast = copy.deepcopy(module).for_inference(x[:3]).runner(found.model, x[:3])
    assert torch.allclose(fast(x), found(x), atol=1e-4)
    assert fast.exits.tolist() == taken(found)
    assert not any("Norm" in type(each).__name__ for network in fast.networks for each in network.modules())


def test_it_is_measured_against_the_whole_network(plain):
    settings = {"widths": [0.5], "epochs": 1, "budget": 0.9}
    found = adapt(copy.deepcopy(plain), "prefix_width", batches(64), batches(64, 1), **settings)
    fast = found.deploy(images(2, seed=18)[0], batches=(1,), seconds=0.001)
    assert fast.speeds[1].ratio.median > 0
    x = images(3, seed=19)[0]
    assert torch.allclose(fast.adaptive(x), found(x), atol=1e-4)


def test_a_network_that_does_not_trace_and_masked_weights_are_served():
    torch.manual_seed(0)
    net = trained(Untraceable(), steps=5)
    with torch.no_grad():
        net.last.weight[:4] = 0
    adapted = adapt(net, "prefix_width", batches(64), batches(64, 1), widths=[0.5], epochs=1, budget=1.0)
    assert adapted(images(3)[0]).shape == (3, 4)
    assert not net.last.weight[:4].any()


def test_a_token_model_is_judged_by_its_last_position():
    torch.manual_seed(0)
    tokens = torch.randint(5, (64, 6))
    model = Tokens().eval()
    found = adapt(model, "prefix_width", [(tokens, tokens)], [(tokens, tokens)], widths=[0.5], epochs=2, budget=0.99)
    scores = found(tokens[:7])
    assert scores.shape == (7, 5)
    alone = torch.cat([found(each) for each in tokens[:7].split(1)])
    assert torch.allclose(scores, alone, atol=1e-6)


def test_the_fit_depends_on_its_seed_alone(plain):
    def fit(start: int) -> torch.Tensor:
        torch.manual_seed(start)
        found = adapt(copy.deepcopy(plain), "prefix_width", batches(64), batches(64, 1), widths=[0.5], epochs=1)
        return found.module.networks[0].left.weight

    assert torch.equal(fit(0), fit(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": []}, r"widths=\[\] is not accepted"),
        ({"widths": [0.5, 0.25]}, r"different shares in \(0, 1\), increasing"),
        ({"widths": [0.5, 1.0]}, r"different shares in \(0, 1\), increasing"),
        ({"widths": "half"}, "widths='half' is not accepted"),
        ({"decide": "last"}, "decide='last' is unknown; known: each, first"),
        ({"budget": 0}, "budget=0 is not accepted"),
        ({"budget": 1.5}, r"budget=1\.5"),
        ({"epochs": 0}, "epochs"),
        ({"distill": 2}, "distill"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PrefixWidth(**settings)


def test_a_budget_below_the_narrowest_network_is_refused_before_training(plain):
    with pytest.raises(ValueError, match=r"budget=0\.01 is out of reach: the network of width 0\.5 takes 0\.\d+"):
        adapt(copy.deepcopy(plain), "prefix_width", batches(64), batches(64), widths=[0.5], budget=0.01)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (iter(batches(128)), "can be read only once"),
        ([(x, y) for x, y in zip(*(each.split(1) for each in images(3)), strict=True)], "single inputs only"),
    ],
)
def test_batches_that_cannot_be_trained_on_are_refused(plain, train, message):
    with pytest.raises(ValueError, match=message):
        adapt(copy.deepcopy(plain), "prefix_width", train, batches(64), widths=[0.5], epochs=2)


def test_a_training_that_diverges_is_refused(plain):
    with pytest.raises(ValueError, match=r"diverged; lower lr=1e\+30"):
        adapt(copy.deepcopy(plain), "prefix_width", batches(64), batches(64), widths=[0.5], epochs=3, lr=1e30)
