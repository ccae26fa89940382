"""Gates are found, trained with a copy of the network, run as they are evaluated, and leave the network alone."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import nn

from lightning_dynprune.adaptive import Adapted, ChannelGates, GateChannels, adapt, attach, strip
from lightning_dynprune.adaptive.gates.channel_gate import live_in_training
from lightning_dynprune.adaptive.gates.gate_layout import find_gated_layers
from lightning_dynprune.adaptive.gates.gate_running import gathers_by_rule
from tests.adaptive.gates.networks import Branching
from tests.adaptive.networks import Untraceable, images, trained

BATCHES = [images(128), images(128, seed=3)]


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    torch.manual_seed(0)
    return trained(Branching(), steps=40)


@pytest.fixture(scope="module", params=["fixed", "mean"])
def found(request, plain) -> Adapted:
    settings = {"mode": request.param, "density": 0.5, "epochs": 4, "lr": 5e-3}
    return adapt(copy.deepcopy(plain), "channel_gate", BATCHES, [images(200, seed=1)], **settings)


@pytest.fixture
def module(found) -> ChannelGates:
    assert isinstance(found.module, ChannelGates)
    return found.module


def test_convolutions_their_norms_and_their_sources_are_found(plain):
    layers = find_gated_layers(plain, images(2)[0], "auto")
    assert [(layer.name, layer.norm, layer.source) for layer in layers] == [
        ("first", "norm", -1),
        ("second", "second_norm", 0),
        ("third", "", -1),  # behind an addition
    ]
    macs = 16 * 9 * 64 + 2 * 16 * 16 * 9 * 16 + 16 * 4
    assert layers[1].share == pytest.approx(16 * 16 * 9 * 16 / macs)
    assert layers[1].gate_share == pytest.approx(16 * 16 / macs)


def test_a_batch_and_single_inputs_gathered_or_masked_agree_with_the_dense_forward(found, module):
    x = images(7, seed=11)[0]
    outcome = module.outcome(found.model, x)
    runner = module.runner(found.model, x)
    for names in ([], list(runner.convolutions), ["second"], ["first", "third"]):
        runner.gather(names)
        assert torch.allclose(runner(x), outcome.scores, atol=1e-5)
        alone = torch.cat([runner(each) for each in x.split(1)])
        assert torch.allclose(alone, outcome.scores, atol=1e-5)
    assert torch.allclose(found(x), outcome.scores, atol=1e-5)
    assert outcome.path.tolist() == runner(x).new_zeros(7).tolist()


def test_fixed_densities_keep_as_many_channels_of_every_input_and_means_on_average(found, module):
    x = images(200, seed=1)[0]
    compute = module.outcome(found.model, x).compute
    if module.mode == "fixed":
        assert module.counts.tolist() == [8, 8, 8]
        assert compute.unique().numel() == 1
    else:
        assert compute.unique().numel() > 1
    assert float(compute.mean()) == pytest.approx(module.mean_compute)


def test_budgets_are_met_to_two_percent_on_the_held_out_inputs(found, module):
    kept = module.counts.clone(), module.thresholds.clone(), module.expected.clone()
    x = images(200, seed=1)[0]
    try:
        for budget in (0.5, 0.7):
            module.budget(budget)
            mean = float(module.outcome(found.model, x).compute.mean())
            assert mean == pytest.approx(budget, rel=0.02)
            assert mean == pytest.approx(module.mean_compute, rel=0.01)
        with pytest.raises(ValueError, match=r"budget=0\.01 is out of reach: with one live channel"):
            module.budget(0.01)
        with pytest.raises(ValueError, match="budget=0 is not accepted"):
            module.budget(0)
    finally:
        module.counts, module.thresholds, module.expected = kept


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_input_that_is_not_finite_takes_the_whole_network(found, module, value):
    x = images(4, seed=12)[0]
    expected = found(x)
    x[1, 0, 0, 0] = value
    scores = found(x)
    assert found.runner().exits.tolist() == [0, 1, 0, 0]
    assert torch.allclose(scores[[0, 2, 3]], expected[[0, 2, 3]], atol=1e-5)
    assert torch.equal(scores[1].isnan(), found.model(x[1:2])[0].isnan())
    outcome = module.outcome(found.model, x)
    assert outcome.path.tolist() == [0, 1, 0, 0]
    assert outcome.compute[1] == 1


def test_an_empty_batch_has_no_scores(found, module):
    assert found(torch.zeros(0, 1, 8, 8)).shape == (0, 4)
    assert module.outcome(found.model, torch.zeros(0, 1, 8, 8)).compute.tolist() == []


def test_the_network_is_left_alone_saved_loaded_and_stripped(found, module, plain):
    model, before, x = found.model, plain.state_dict(), images(9, seed=13)[0]
    assert torch.equal(model(x), plain(x))
    state = model.state_dict()
    assert all(key.startswith("adaptive.") for key in set(state) - set(before))
    loaded = Branching().eval()
    attach(loaded, state)
    assert loaded.load_state_dict(state).missing_keys == []
    again = Adapted(loaded.eval())
    assert torch.equal(again(x), found(x))
    assert again.budget(0.6).module.mean_compute == pytest.approx(0.6, rel=0.02)
    strip(loaded)
    assert loaded.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in loaded.state_dict().items())


def test_a_damaged_state_is_refused(found):
    state = {k: v for k, v in found.model.state_dict().items() if k != "adaptive.gates.1.saliency.weight"}
    with pytest.raises(ValueError, match="state of the gates is damaged"):
        attach(Branching(), state)
    with pytest.raises(ValueError, match="state of the gates is damaged, or of another network"):
        attach(nn.Linear(2, 2), found.model.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "head"}, "'head' is no convolution"),
        ({"outputs": 10**12}, r"'first' has \(1, 16\) channels"),
        ({"source": 3}, "reads layer 3"),
        ({"share": "much"}, "'much' of the multiply-adds"),
        ({"more": 1}, "unexpected keyword argument"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(found, module, change, message):
    settings = dict(module.settings)
    settings["layers"] = [dict(settings["layers"][0]) | change, *settings["layers"][1:]]
    packed = torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"state of the gates is damaged.*{message}"):
        attach(Branching(), {**found.model.state_dict(), "adaptive.description": packed})


def test_the_densities_of_layers_and_one_line_about_them_are_told(found, module):
    evaluation = found.evaluate([images(64, seed=15)])
    assert list(evaluation.layer_density) == ["first", "second", "third"]
    if module.mode == "fixed":
        assert evaluation.figures()["density/second"] == 0.5
        assert "in 3 convolutions, 24 of 48 channels" in module.summary
    else:
        assert "a mean density" in module.summary


def test_each_convolution_is_measured_and_gathers_where_that_is_faster(found, module):
    x = images(4, seed=14)[0]
    runner = module.fast_runner(found.model, x, seconds=0.003)
    assert list(module.layer_speeds) == ["first", "second", "third"]
    for name, ratio in module.layer_speeds.items():
        assert runner.convolutions[name].gathers == (ratio.low > 1)
    assert torch.allclose(runner(x), found(x), atol=1e-5)


def test_unmeasured_large_convolutions_gather():
    net = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 128, 3)).eval()
    large, small = find_gated_layers(net, torch.zeros(1, 128, 14, 14), "auto")
    assert gathers_by_rule(large)
    assert not gathers_by_rule(small)  # 12 x 12


def test_zeros_of_masked_weights_stay_in_the_copy(plain):
    net = copy.deepcopy(plain)
    with torch.no_grad():
        net.second.weight[:, ::2] = 0
    found = adapt(net, "channel_gate", BATCHES, [images(50, seed=1)], epochs=1)
    weight = found.module.network.second.weight
    assert not weight[:, ::2].any()
    assert not torch.equal(weight[:, 1::2], net.second.weight[:, 1::2])


def test_the_gates_of_a_batch_share_a_threshold_in_training_with_a_mean_density():
    values = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.6, 0.2, 0.3, 0.0]])
    assert live_in_training(values, 0.5, "mean").tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert live_in_training(values, 0.5, "fixed").tolist() == [[1, 1, 0, 0], [1, 0, 1, 0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": "conv"}, "layers='conv' is not accepted"),
        ({"layers": []}, r"layers=\[\] is not accepted"),
        ({"mode": "some"}, "mode='some' is unknown; known: fixed, mean"),
        ({"density": 0}, "density=0 is not accepted"),
        ({"density": 1.2}, r"density=1\.2"),
        ({"budget": -1}, "budget=-1"),
        ({"l1": -1}, "l1=-1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        GateChannels(**settings)


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (Branching, {"layers": ["fourth"]}, "layers='fourth' matches no module; .*first"),
        (Branching, {"layers": ["head"]}, "layers='head': Linear cannot be gated"),
        (Branching, {"budget": 0.01}, r"budget=0\.01 is out of reach"),
        (Untraceable, {}, r"torch\.fx cannot trace the forward of Untraceable"),
    ],
)
def test_networks_that_cannot_be_gated_are_refused_before_training(network, settings, message):
    with pytest.raises(ValueError, match=message):
        adapt(network().eval(), "channel_gate", BATCHES, BATCHES, **settings)
