"""A trained model, copied, saved and compiled away: it is a plain model with zeros, in mid-run and after."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from tests.compatibility.runs import STRATEGIES, Module, fit, network, pruning
from tests.training import trainer

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", params=STRATEGIES)
def trained(request, tmp_path_factory):
    """The network of a run that has ended, and its callback."""
    module, ours, _ = fit(tmp_path_factory.mktemp("trained"), request.param)
    return module.net.eval(), ours


def weights(net: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in net.state_dict().values()]


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def train(net: nn.Module) -> None:
    """Let a step move every weight."""
    sgd = torch.optim.SGD(net.parameters(), lr=100.0)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    sgd.step()


class Copying(L.Callback):
    """Takes a copy in mid-run, and trains the copy."""

    def __init__(self, what) -> None:
        self.what, self.copied, self.then = what, None, None

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step == 12:
            self.copied = copy.deepcopy(self.what or pl_module)
            self.then = weights(pl_module)
            if self.what is None:
                assert equal(weights(self.copied), self.then)
                assert self.copied.net[0].weight.detach().eq(0).any()
                train(self.copied.net)
                assert not self.copied.net[0].weight.detach().eq(0).any(), "the copy is still masked"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_module_copied_in_mid_run_is_free_and_the_run_goes_on_as_if_it_were_not(strategy, tmp_path):
    copying = Copying(None)
    module, ours, _ = fit(tmp_path, strategy, callbacks=lambda: [copying])
    alone, theirs, _ = fit(tmp_path, strategy)
    assert copying.copied is not None
    assert equal(weights(module), weights(alone))
    assert all(torch.equal(mask, theirs.masks[name]) for name, mask in ours.masks.items())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_callback_copied_in_mid_run_keeps_the_masks_of_then(strategy, tmp_path):
    module, ours = Module(), pruning(strategy)
    copying = Copying(ours)
    trainer([ours, copying], tmp_path).fit(module)
    assert 0 < copying.copied.sparsity < ours.sparsity
    kept = dict(zip(module.state_dict(), copying.then, strict=True))
    assert all(torch.equal(kept[name] != 0, mask) for name, mask in copying.copied.masks.items())
    copied = copy.deepcopy(ours)
    assert all(torch.equal(mask, ours.masks[name]) for name, mask in copied.masks.items())
    train(module.net)
    assert copied.sparsity == ours.sparsity
    assert not any(copied.pruner.targets[i].parameter is t.parameter for i, t in enumerate(ours.pruner.targets))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_callback_copied_before_fit_prunes_as_the_first_one_does(strategy, tmp_path):
    ours = pruning(strategy)
    copied = copy.deepcopy(ours)
    first, second = Module(), Module()
    trainer([ours], tmp_path).fit(first)
    assert copied.sparsity == 0.0
    trainer([copied], tmp_path).fit(second)
    assert copied.sparsity == ours.sparsity > 0
    assert equal(weights(first), weights(second))


def test_the_trained_model_has_the_names_the_order_and_the_attributes_of_the_plain_one(trained):
    net, plain = trained[0], network()
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in plain.named_parameters()]
    for module, other in zip(net.modules(), plain.modules(), strict=True):
        assert type(module) is type(other)
        assert vars(module).keys() == vars(other).keys()
        assert not any(vars(module)[name] for name in vars(module) if "hooks" in name)
    for parameter in net.parameters():
        assert type(parameter) is nn.Parameter
        assert not vars(parameter)
        assert not parameter._backward_hooks


def test_a_copy_of_the_trained_model_is_free(trained):
    net, _ = trained
    before, copied = weights(net), copy.deepcopy(net)
    assert equal(before, weights(copied))
    train(copied)
    assert not copied[0].weight.detach().eq(0).any()
    assert equal(before, weights(net))


def test_the_trained_model_pickles_without_a_trace_and_loads_where_this_package_is_not(tmp_path):
    for strategy in STRATEGIES:
        module, _, _ = fit(tmp_path, strategy)
        net, saved = module.net.eval(), io.BytesIO()
        torch.save(net, saved)
        (tmp_path / f"{strategy}.pkl").write_bytes(pickle.dumps(net))
        (tmp_path / f"{strategy}.pt").write_bytes(saved.getvalue())
        torch.save((X, net(X)), tmp_path / f"{strategy}.expected")
        assert not any(b"dynprune" in (tmp_path / f"{strategy}.{form}").read_bytes() for form in ("pkl", "pt"))
    script = f"""
import pickle, sys
sys.modules["lightning_dynprune"] = sys.modules["lightning"] = None  # any import of them raises
import torch
for strategy in {STRATEGIES!r}:
    x, y = torch.load(strategy + ".expected")
    for net in (pickle.load(open(strategy + ".pkl", "rb")), torch.load(strategy + ".pt", weights_only=False)):
        print(torch.equal(net(x), y), sum(int((p == 0).sum()) for p in net.parameters()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.stdout.split("\n")[:4] == ["True 216"] * 4, done.stderr


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize(
    "compiled",
    [torch.jit.script, lambda net: torch.jit.trace(net, X), lambda net: torch.export.export(net, (X,)).module()],
    ids=["script", "trace", "export"],
)
def test_the_trained_model_can_be_scripted_traced_and_exported(compiled, trained):
    net, ours = trained
    other = compiled(net)
    assert torch.allclose(other(X), net(X), atol=1e-6)
    state = other.state_dict()
    assert all(torch.equal(state[name.removeprefix("net.")] != 0, mask) for name, mask in ours.masks.items())
