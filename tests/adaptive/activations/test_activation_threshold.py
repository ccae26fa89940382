"""Thresholds are calibrated for a density, a budget or a loss; the network runs, is saved, deployed and stripped."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from lightning_dynprune import Pruner
from lightning_dynprune.adaptive import METHODS, ActivationThreshold, Adapted, adapt, attach, strip
from lightning_dynprune.adaptive.activations import ByteRowSkipping, FloatRowSkipping
from lightning_dynprune.adaptive.activations.activation_threshold import mean_loss
from lightning_dynprune.deploy.slimming import slim
from lightning_dynprune.distributed import Ranks
from tests.adaptive.activations.networks import points, thresholded, trained


@pytest.fixture(scope="module")
def found() -> Adapted:
    return thresholded(trained(), density=0.3)


def test_the_method_is_registered():
    assert "activation_threshold" in METHODS.names()


def test_scores_compute_and_densities_are_those_of_a_plain_reference(found):
    x = points(9, seed=5)[0]
    outcome = found.module.outcome(found.model, x)
    value, macs, spent = x, 0, torch.zeros(9, dtype=torch.float64)
    for name, layer in found.model.named_children():
        if isinstance(layer, nn.Linear):
            live = value.abs() > found.module.by_layer[name]
            assert torch.allclose(outcome.densities[name], live.double().mean(1))
            spent += live.double().sum(1) * layer.out_features
            macs += layer.weight.numel()
            value = layer(torch.where(live, value, 0.0))
        elif name != "adaptive":
            value = layer(value)
    assert torch.allclose(outcome.scores, value, atol=1e-6)
    assert torch.allclose(outcome.compute, spent / macs)
    assert torch.equal(outcome.dense, found.model(x))
    assert outcome.path.tolist() == [0] * 9
    assert torch.allclose(found(x), value, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_seven_inputs_get_what_each_gets_alone(precision):
    found = thresholded(trained(), density=0.3, precision=precision)
    x = points(7, seed=6)[0]
    assert torch.equal(found(x), torch.cat([found(each) for each in x.split(1)]))
    outcome = found.module.outcome(found.model, x)
    alone = [found.module.outcome(found.model, each) for each in x.split(1)]
    assert outcome.compute.tolist() == [float(each.compute) for each in alone]
    assert torch.allclose(outcome.scores, found(x), atol=1e-5)
    forms = [module for module in found.runner().modules() if isinstance(module, (FloatRowSkipping, ByteRowSkipping))]
    assert {type(form) for form in forms} == {ByteRowSkipping if precision == "int8" else FloatRowSkipping}
    assert len(forms) == 3


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5])
def test_densities_and_budgets_are_met_to_two_percent_on_the_held_out_inputs(found, share):
    module, held_out = copy.deepcopy(found.module), points(200, seed=1)[0]
    for setting in (module.set_density, module.budget):
        setting(share)  # all multiply-adds are those of the three layers, so that both are the same
        assert module.compute == pytest.approx(share, rel=0.01)
        assert float(module.outcome(found.model, held_out).compute.mean()) == pytest.approx(share, rel=0.02)


def test_above_the_density_of_zeros_only_zeros_are_skipped_and_the_outputs_are_dense(found):
    module = copy.deepcopy(found.module)
    module.budget(1.0)
    assert module.thresholds.tolist() == [0.0, 0.0, 0.0]
    assert module.compute == pytest.approx(module.reachable[1])
    assert module.natural[0] == pytest.approx(0.6, abs=0.03)
    x = points(20, seed=7)[0]
    outcome = module.outcome(found.model, x)
    assert torch.equal(outcome.scores, outcome.dense)
    assert torch.allclose(module.runner(found.model, x)(x), outcome.dense, atol=1e-5)


def test_a_largest_loss_is_kept_with_fewer_rows_than_zeros_alone_leave():
    net, held_out = trained(), [points(200, seed=1)]
    dense = mean_loss(net, None, held_out, Ranks.single())
    densities = []
    for rise in (0.01, 0.1):
        module = thresholded(net, max_loss_rise=rise).module
        assert mean_loss(net, module, held_out, Ranks.single()) <= (1 + rise) * dense
        densities.append(module.density)
    assert densities[1] < densities[0] < module.reachable[1]


def test_what_a_layer_reads_is_chosen_by_the_error_of_its_output():
    net = trained()
    # The last 8 inputs are mostly zero, and now of no effect: the first layer can skip them at no error.
    net[0].weight.data[:, 4:] = 0.0
    module = thresholded(net, density=0.25).module
    assert module.errors[:, -1].tolist() == [0.0, 0.0, 0.0]
    assert (module.errors.diff(dim=1) <= 1e-12).all()
    assert float(module.density) == pytest.approx(0.25, rel=0.01)


def test_the_network_keeps_its_keys_values_and_outputs_and_strip_removes_the_rest():
    net = trained()
    before, x = copy.deepcopy(net.state_dict()), points(5)[0]
    expected = net(x)
    thresholded(net, density=0.3)
    assert torch.equal(net(x), expected)
    assert all(key in before or key.startswith("adaptive.") for key in net.state_dict())
    strip(net)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_saved_network_is_loaded_and_skips_the_same_inputs(found):
    state, x = found.model.state_dict(), points(6, seed=8)[0]
    loaded = trained(steps=0)
    attach(loaded, state)
    assert loaded.load_state_dict(state).missing_keys == []
    assert torch.equal(Adapted(loaded, x)(x), found(x))
    assert Adapted(loaded, x).budget(0.2).module.compute == pytest.approx(0.2, rel=0.01)


def test_a_damaged_state_is_refused(found):
    state = {key: value for key, value in found.model.state_dict().items() if key != "adaptive.thresholds"}
    with pytest.raises(ValueError, match="state of the thresholds is damaged"):
        attach(trained(steps=0), state)


def test_figures_name_the_density_of_each_layer(found):
    evaluation = found.evaluate([points(100, seed=9)])
    figures = evaluation.figures()
    assert {"density/0", "density/2", "density/4", "compute_mean", "share/thresholds"} <= figures.keys()
    assert evaluation.path_shares == (1.0,)
    assert figures["compute_mean"] == pytest.approx(0.3, rel=0.2)
    assert "3 layers with thresholds" in found.module.summary


def test_a_deployed_network_returns_the_scores_of_its_choice(found):
    x = points(40, seed=10)[0]
    deployed = found.deploy(x, batches=(1, 2), seconds=0.05)
    assert set(deployed.adaptive.speeds) == {"0", "2", "4"}
    assert torch.allclose(deployed.dense(x[:1]), found.model(x[:1]), atol=1e-5)
    expected = deployed.adaptive if deployed.runs_adaptive(1) else deployed.dense
    assert torch.equal(deployed(x[:1]), expected(x[:1]))
    chosen = {name: speed.chosen for name, speed in deployed.adaptive.speeds.items()}
    assert all(form in ("dense", "rows float32") for form in chosen.values()), "8 bits were not asked for"


def test_8_bits_run_only_where_they_are_asked_for_and_are_measured_against_int8():
    found = thresholded(trained(), density=0.3, precision="int8")
    deployed = found.deploy(points(40)[0], batches=(1,), seconds=0.05)
    for speed in deployed.adaptive.speeds.values():
        assert set(speed.ratios) == {"rows float32", "rows 8 bits", "dense int8"}
    assert "rows 8 bits" in str(deployed.adaptive.speeds["0"])


def test_masks_of_weights_and_slimming_go_with_thresholds():
    net = trained()
    net[2].weight.data[torch.rand(48, 64, generator=torch.Generator().manual_seed(0)) < 0.5] = 0.0
    net[0].weight.data[:24] = 0.0
    net[0].bias.data[:24] = 0.0
    slim(net, points(2)[0])
    assert net[0].out_features == 40
    assert (net[2].weight == 0).float().mean() > 0.4
    found = thresholded(net, density=0.3)
    x = points(6, seed=2)[0]
    assert torch.allclose(found(x), found.module.outcome(net, x).scores, atol=1e-5)


@pytest.mark.parametrize("strategy", ["magnitude", "straight_through"])
def test_thresholds_are_set_while_a_pruner_holds_the_masks(strategy):
    net = trained()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    pruner = Pruner(net, optimizer, sparsity=0.8, strategy=strategy, schedule={"name": "one_shot", "begin": 1})
    x, labels = points(64)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
        pruner.tick()
    found = thresholded(net, density=0.3)
    assert torch.allclose(found(x[:5]), found.module.outcome(net, x[:5]).scores, atol=1e-5)
    assert (net[0].weight == 0).float().mean() > 0.5
    pruner.close()


def gpt() -> GPT2LMHeadModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(
            GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=8, vocab_size=11, use_cache=False)
        ).eval()


class Scores(nn.Module):
    """Returns the scores of a model of transformers as a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(tokens).logits


def test_a_gpt_of_transformers_has_thresholds_on_its_conv1ds_and_swaps_its_gelu():
    model = Scores(gpt()).eval()
    tokens = torch.randint(11, (24, 6), generator=torch.Generator().manual_seed(0))
    found = adapt(
        model,
        "activation_threshold",
        [(tokens, tokens)],
        [(tokens, tokens)],
        layers=["*.mlp.*"],
        density=0.4,
        swap="relu",
    )
    assert found.module.layer_names == ("model.transformer.h.0.mlp.c_fc", "model.transformer.h.0.mlp.c_proj")
    assert isinstance(model.get_submodule(found.module.layer_names[0]), Conv1D)
    assert isinstance(model.model.transformer.h[0].mlp.act, nn.ReLU)
    assert found.module.natural[1] < 0.7
    scores = found(tokens[:7])
    assert scores.shape == (7, 11)
    assert torch.allclose(scores, torch.cat([found(each) for each in tokens[:7].split(1)]), atol=1e-6)
    assert torch.allclose(scores, found.module.outcome(model, tokens[:7]).scores, atol=1e-5)
    assert 0.4 < found.module.compute < 1.0  # attention and the head are computed whole
    strip(model)
    assert not isinstance(model.model.transformer.h[0].mlp.act, nn.ReLU)


class Cached(nn.Module):
    """Keeps the inputs of earlier calls, as a key/value cache does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(16, 4), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return self.layer(x)


class Fused(nn.Module):
    """Reads the weight of a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.layer.weight, self.layer.bias)


def test_layers_whose_weights_torch_reads_in_its_fused_forward_are_left_out():
    block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential(block, nn.Flatten(), nn.Linear(32, 4)).eval()
    data = [(torch.randn(30, 2, 16, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 4)]
    found = adapt(model, "activation_threshold", data, data, density=0.5)
    assert found.module.layer_names == ("2",)
    assert torch.allclose(found(data[0][0][:3]), found.module.outcome(model, data[0][0][:3]).scores, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (Cached, {}, "keeps state between calls.*seen"),
        (Fused, {}, "'layer' is not called by the forward"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Softmax(1)), {}, "no Linear or Conv1D"),
        (trained, {"layers": ["9"]}, "layers='9' matches none of the layers"),
        (trained, {"swap": "relu"}, r"no nn\.GELU or nn\.SiLU"),
        (trained, {"density": 0.001}, r"density=0\.001 is out of reach; give at least 0\.0"),
        (trained, {"budget": 0.001}, r"budget=0\.001 is out of reach: the layers that skip inputs take 1\.0000"),
    ],
)
def test_a_network_that_cannot_skip_is_refused_and_left_alone(build, settings, message):
    net = build()
    with pytest.raises(ValueError, match=message):
        thresholded(net, **settings)
    assert not hasattr(net, "adaptive")
    assert all("forward" not in vars(module) for module in net.modules())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"density": 0}, ValueError, r"density=0 is not accepted; give a share in \(0, 1\]"),
        ({"density": 1.2}, ValueError, r"density=1\.2 is not accepted"),
        ({"density": math.nan}, TypeError, "density=nan is not a finite number"),
        ({"budget": -0.1}, ValueError, r"budget=-0\.1 is not accepted"),
        ({"budget": "half"}, TypeError, "budget='half'"),
        ({"density": 0.5, "budget": 0.5}, ValueError, "exclude each other"),
        ({"max_loss_rise": -1}, ValueError, "max_loss_rise=-1"),
        ({"precision": "int4"}, ValueError, "precision='int4' is unknown; known: float32, int8"),
        ({"swap": "tanh"}, ValueError, "swap='tanh' is unknown; known: relu"),
        ({"layers": "0"}, ValueError, "layers='0' is not accepted; give a list"),
        ({"layers": []}, ValueError, r"layers=\[\] is not accepted"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        ActivationThreshold(**settings)


@pytest.mark.parametrize(("train", "held_out"), [(0, 4), (4, 0)])
def test_calibration_without_data_is_refused(train, held_out):
    with pytest.raises(ValueError, match="has no inputs; give batches"):
        adapt(trained(), "activation_threshold", [points(train)], [points(held_out)])


def test_calibration_on_numbers_that_are_not_finite_names_the_layer_or_leaves_them_out():
    x, labels = points(64)
    with pytest.raises(ValueError, match="no input of the layer '0' is finite"):
        adapt(trained(), "activation_threshold", [(x, labels)], [(x * math.nan, labels)])
    some = x.clone()
    some[::2] = math.nan
    module = adapt(trained(), "activation_threshold", [(some, labels)], [(some, labels)], density=0.3).module
    expected = adapt(
        trained(), "activation_threshold", [(x[1::2], labels[1::2])] * 2, [(x[1::2], labels[1::2])], density=0.3
    )
    assert torch.allclose(module.quantiles, expected.module.quantiles)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_input_that_is_not_finite_gives_what_dense_gives_and_others_are_not_disturbed(found, value):
    x = points(5, seed=11)[0]
    expected = found(x)
    x[2, 3] = value
    scores = found(x)
    assert torch.equal(scores[2].isfinite(), found.model(x)[2].isfinite())
    assert torch.equal(scores[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])


def test_an_empty_batch_has_no_scores(found):
    assert found(torch.zeros(0, 16)).shape == (0, 4)
    assert found.module.outcome(found.model, torch.zeros(0, 16)).compute.tolist() == []


def test_weights_of_another_dtype_are_refused_by_name():
    net = trained()
    net.append(nn.Identity())
    net[4].bfloat16()

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = net[:4], net[4]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x).bfloat16()).float()

    with pytest.raises(ValueError, match=r"has a weight of torch\.bfloat16; inputs are skipped in float32"):
        thresholded(Mixed().eval(), layers=["last"])
    assert thresholded(Mixed().eval(), density=0.4).module.layer_names == ("first.0", "first.2")
