"""Weights that are computed from others, or are no plain tensors: refused by name before the first batch."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from lightning_dynprune.engine import Pruner
from tests.compatibility.runs import STRATEGIES, Module, fit, holds, network

both_strategies = pytest.mark.parametrize("strategy", STRATEGIES)
old_style = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")


class Untrained(Module):
    """A module of which no batch may be taken."""

    def loss(self, batch):
        pytest.fail("a batch was taken")


class Doubled(nn.Module):
    def forward(self, weight):
        return weight + weight.T.mean()


class LowRank(nn.Module):
    """A trained product of two thin matrices on top of a weight."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.zeros(outputs, 2))

    def forward(self, weight):
        return weight + self.up @ self.down


def parametrized(change):
    def make():
        net = network()
        change(net[0])
        return net

    return make


def adding(parametrization):
    return parametrized(lambda layer: parametrize.register_parametrization(layer, "weight", parametrization))


def pruned_by_torch():
    net = network()
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    return net


def retyped(**to):
    net = network()
    net[0].to(**to)
    return net


def in_csr():
    net = network()
    net[0].weight = nn.Parameter(net[0].weight.detach().to_sparse_csr())
    return net


COMPUTED = {
    "weight_norm": (parametrized(parametrizations.weight_norm), "parametrization WeightNorm computes a weight from"),
    "spectral_norm": (parametrized(parametrizations.spectral_norm), "parametrization SpectralNorm"),
    "orthogonal": (parametrized(parametrizations.orthogonal), "parametrization Orthogonal"),
    "a parametrization of one's own": (adding(Doubled()), "parametrization Doubled"),
    "weight_norm by a hook": (
        parametrized(nn.utils.weight_norm),
        r"net\.0\.weight is computed from net\.0\.weight_g by a hook",
    ),
    "spectral_norm by a hook": (
        parametrized(nn.utils.spectral_norm),
        r"net\.0\.weight is computed from net\.0\.weight_orig by a hook",
    ),
    "torch.nn.utils.prune": (pruned_by_torch, r"net\.0\.weight is pruned by torch\.nn\.utils\.prune already"),
}
NO_PLAIN_TENSORS = {
    "complex": (lambda: retyped(dtype=torch.complex64), r"net\.0\.weight is of torch\.complex64, torch\.strided"),
    "float8": (lambda: retyped(dtype=torch.float8_e4m3fn), r"net\.0\.weight is of torch\.float8_e4m3fn"),
    "CSR": (in_csr, r"net\.0\.weight is of torch\.float32, torch\.sparse_csr"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(24), nn.Linear(24, 4)), r"net\.0\.weight is lazy and has no shape"),
}


@old_style
@both_strategies
@pytest.mark.parametrize("name", [*COMPUTED, *NO_PLAIN_TENSORS])
def test_it_is_refused_by_name_before_the_first_batch(name, strategy, tmp_path):
    make, message = {**COMPUTED, **NO_PLAIN_TENSORS}[name]
    with pytest.raises(ValueError, match=message) as error:
        fit(tmp_path, strategy, lambda: Untrained(make()))
    assert re.search(r"exclude|one batch", str(error.value))


@old_style
@both_strategies
@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_weight_that_is_excluded_trains_on_as_it_is(name, strategy, tmp_path):
    make, _ = COMPUTED[name]
    module, ours, _ = holds(tmp_path, strategy, lambda: Module(make()), settings={"exclude": "net.0.*"})
    assert list(ours.masks) == ["net.3.weight"]
    assert list(module.net.state_dict()) == list(make().state_dict())
    if name == "torch.nn.utils.prune":
        assert torch.equal(module.net[0].weight == 0, make()[0].weight == 0)


@both_strategies
def test_a_computed_weight_is_pruned_once_it_is_a_parameter_of_its_own(strategy, tmp_path):
    def make():
        net = parametrized(parametrizations.weight_norm)()
        parametrize.remove_parametrizations(net[0], "weight")
        return Module(net)

    _, ours, _ = holds(tmp_path, strategy, make)
    assert sorted(ours.masks) == ["net.0.weight", "net.3.weight"]


@both_strategies
def test_after_prune_remove_the_weight_is_pruned_as_any_other(strategy, tmp_path):
    def make():
        net = pruned_by_torch()
        prune.remove(net[0], "weight")
        return Module(net)

    _, ours, _ = holds(tmp_path, strategy, make)
    assert sorted(ours.masks) == ["net.0.weight", "net.3.weight"]


@both_strategies
def test_what_a_parametrization_trains_of_its_own_is_pruned_and_its_frozen_base_is_not(strategy, tmp_path):
    def make():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = network()
            net[0].requires_grad_(False)
            parametrize.register_parametrization(net[0], "weight", LowRank(24, 8))
            return Module(net)

    base = network()[0].weight
    targets = ["*.weight.0.*", "net.3.weight", "net.0.weight"]
    with pytest.warns(UserWarning, match=r"frozen, so not pruned: net\.0\.parametrizations\.weight\.original"):
        module, ours, _ = holds(tmp_path, strategy, make, settings={"targets": targets})
    names = ["net.0.parametrizations.weight.0.down", "net.0.parametrizations.weight.0.up", "net.3.weight"]
    assert sorted(ours.masks) == names
    assert torch.equal(module.net[0].parametrizations.weight.original, base)


@both_strategies
def test_a_weight_on_the_meta_device_is_refused_by_name(strategy):
    net = retyped(device="meta")
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match=r"0\.weight is on the meta device and has no values; give the model its values"
    ):
        Pruner(net, sgd, sparsity=0.5, strategy=strategy, total_steps=4)


@old_style
def test_nothing_is_left_to_prune_in_a_quantized_model():
    quantized = torch.ao.quantization.quantize_dynamic(network()[:1], dtype=torch.qint8)
    with pytest.raises(ValueError, match=r"nothing to prune: .* its parameters are none"):
        Pruner(quantized, sparsity=0.5, strategy="magnitude", total_steps=4)
    stored = network()
    stored[0].weight = nn.Parameter(stored[0].weight.detach().to(torch.int8), requires_grad=False)
    assert [t.name for t in Pruner(stored, sparsity=0.5, strategy="magnitude", total_steps=4).targets] == ["3.weight"]


@both_strategies
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_fake_quantized_weights_are_zero_where_they_are_pruned(strategy, tmp_path):
    class Fake(nn.Linear):
        def quantized(self):
            scale = self.weight.detach().abs().amax().item() / 127 or 1.0
            return torch.fake_quantize_per_tensor_affine(self.weight, scale, 0, -128, 127)

        def forward(self, x):
            return nn.functional.linear(x, self.quantized(), self.bias)

    def make():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Module(nn.Sequential(Fake(8, 24), nn.ReLU(), Fake(24, 4)))

    module, ours, _ = holds(tmp_path, strategy, make)
    for place in (0, 2):
        assert not module.net[place].quantized()[~ours.masks[f"net.{place}.weight"]].any()
    assert copy.deepcopy(module.net)[0].quantized().count_nonzero() > 0
