"""What a strategy that accumulates sees of each step, and what is said of targets that it has seen nothing of."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.masks import applied_gradient

EACH = {"name": "linear", "begin": 1, "end": 4, "every": 1}
LATER = {"name": "one_shot", "begin": 100}
NOW = {"name": "taylor", "decay": 0.0}


class Branches(nn.Module):
    """Two layers of ten connections, of which a step may use but one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.used, self.unused = nn.Linear(5, 2, bias=False), nn.Linear(5, 2, bias=False)

    def forward(self, x, both=False):
        return self.used(x) + self.unused(x) if both else self.used(x)


def step(net: Branches, optimizer: torch.optim.Optimizer, both: bool = False) -> None:
    optimizer.zero_grad()
    net(torch.arange(1.0, 6.0).expand(4, 5), both).square().sum().backward()
    optimizer.step()


def test_a_branch_that_gets_no_gradient_goes_first_and_is_named_once():
    net = Branches()
    sgd = torch.optim.SGD(net.parameters(), lr=1e-4)
    pruner = Pruner(net, sgd, sparsity=0.55, schedule=EACH)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(4):
            step(net, sgd)
            pruner.tick()
    # Eleven of twenty: nine of the branch, which keeps min_kept=1, and two of the layer that the loss heeds.
    assert pruner.masks.kept == [8, 1]
    said = [str(w.message) for w in seen if "no gradient" in str(w.message)]
    assert said == [
        "no gradient has reached unused.weight yet, so strategy Taylor scores its connections 0 and may prune them "
        "first; exclude what takes no part in the loss, or give strategy='magnitude', which needs no gradients"
    ]


def test_a_branch_that_is_used_now_and_then_is_not_spoken_of():
    net = Branches()
    sgd = torch.optim.SGD(net.parameters(), lr=1e-4)
    pruner = Pruner(net, sgd, sparsity=0.5, schedule={**EACH, "begin": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(4):
            step(net, sgd, both=number == 0)
            pruner.tick()
    assert pruner.sparsity == 0.5


@pytest.mark.parametrize("strategy", ["taylor", "movement"])
def test_an_update_before_any_gradient_is_refused_and_changes_nothing(strategy):
    net = Branches()
    sgd = torch.optim.SGD(net.parameters(), lr=1e-4)
    pruner = Pruner(net, sgd, sparsity=0.5, strategy=strategy, schedule=LATER)
    with pytest.raises(RuntimeError, match=r"none yet of used\.weight, unused\.weight; .* give strategy='magnitude'"):
        pruner.update(0.5)
    assert pruner.sparsity == 0.0
    assert pruner.updates == 0
    net(torch.ones(4, 5), both=True).square().sum().backward()
    pruner.observe()
    assert pruner.update(0.5).sparsity == 0.5


def test_an_update_that_prunes_nothing_needs_no_gradient():
    net = Branches()
    pruner = Pruner(net, torch.optim.SGD(net.parameters(), lr=1e-4), sparsity=0.5, schedule=LATER)
    assert pruner.update(0.0).sparsity == 0.0


def test_an_update_before_the_first_step_goes_by_the_gradients_of_the_first_batch():
    net = nn.Linear(4, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    sgd = torch.optim.SGD(net.parameters(), lr=0.5)
    pruner = Pruner(net, sgd, sparsity=0.5, strategy=NOW, schedule={"name": "one_shot", "begin": 0})
    net(torch.tensor([[8.0, 1.0, 2.0, -1.0]])).sum().backward()
    sgd.step()
    # w dL/dw is 8, 2, 6 and -4 before the step, by which 1 becomes -3 and 3 becomes 2.
    assert pruner.masks.tensors[0].tolist() == [[True, False, True, False]]
    pruner.tick()
    assert net.weight[0].tolist() == [-3.0, 0.0, 2.0, 0.0]
    assert [update.step for update in pruner.journal.updates] == [0]
    assert pruner.targets[0].state["sensitivity"][0].tolist() == [64.0, 4.0, 36.0, 16.0]


def test_a_resumed_run_knows_what_the_first_one_saw():
    def begun() -> tuple[Branches, torch.optim.Optimizer, Pruner]:
        net = Branches()
        sgd = torch.optim.SGD(net.parameters(), lr=1e-4)
        return net, sgd, Pruner(net, sgd, sparsity=0.5, schedule=LATER)

    net, sgd, pruner = begun()
    step(net, sgd)
    pruner.tick()
    _, _, resumed = begun()
    resumed.load_state_dict(pruner.state_dict())
    with pytest.warns(UserWarning, match=r"no gradient has reached unused\.weight yet"):
        assert resumed.update(0.5).dropped == {"used.weight": 1, "unused.weight": 9}


def test_a_target_that_no_optimizer_trains_is_refused_at_once():
    net = Branches()
    sgd = torch.optim.SGD(net.used.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"no optimizer trains unused\.weight; exclude what is not trained, or give"):
        Pruner(net, sgd, sparsity=0.5, schedule=LATER)
    Pruner(net, sgd, sparsity=0.5, schedule=LATER, exclude="unused.*")
    other = Branches()
    sgd = torch.optim.SGD(other.used.parameters(), lr=0.1)
    Pruner(other, sgd, sparsity=0.5, strategy="magnitude", schedule=LATER)


SPARSE = r"weight has a gradient of layout torch\.sparse_coo, .* with sparse=False"


def test_a_module_of_sparse_gradients_is_refused_at_once():
    net = nn.Embedding(6, 2, sparse=True)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    for strategy in ("taylor", "rigl"):
        with pytest.raises(ValueError, match=SPARSE):
            Pruner(net, sgd, sparsity=0.5, strategy=strategy, targets="weight", schedule=LATER, total_steps=200)
    Pruner(net, sgd, sparsity=0.5, strategy="magnitude", targets="weight", schedule=LATER)


def test_a_sparse_gradient_from_elsewhere_is_refused_where_it_arrives():
    net = nn.Embedding(6, 2)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    pruner = Pruner(net, sgd, sparsity=0.5, targets="weight", schedule=LATER)
    nn.functional.embedding(torch.tensor([1, 3]), net.weight, sparse=True).sum().backward()
    with pytest.raises(RuntimeError, match=SPARSE):
        sgd.step()
    assert pruner.updates == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [3, 400])
def test_a_target_is_seen_whole_in_one_piece_or_in_many(channels, layout):
    # 400 x 400 x 2 x 2 entries are more than a piece.
    net = nn.Conv2d(channels, channels, 2, bias=False).to(memory_format=layout)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    pruner = Pruner(net, sgd, sparsity=0.5, schedule=LATER)
    expected = torch.zeros(net.weight.shape)
    for _ in range(3):
        net.weight.grad = torch.randn_like(net.weight)
        change = net.weight.detach() * net.weight.grad
        expected = 0.9 * expected + 0.1 * change**2
        sgd.step()
        pruner.tick()
    assert torch.allclose(pruner.targets[0].state["sensitivity"], expected, rtol=1e-5, atol=0.0)


def test_a_fused_optimizer_under_a_loss_scaler_is_seen_with_the_gradients_it_applies():
    def trained(scaled: bool) -> torch.Tensor:
        net = nn.Linear(3, 1, bias=False)
        net.weight.data = torch.tensor([[1.0, -2.0, 3.0]])
        adam = torch.optim.Adam(net.parameters(), lr=0.25, fused=True)
        pruner = Pruner(net, adam, sparsity=0.5, strategy={"name": "taylor", "decay": 0.5}, schedule=LATER)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1, enabled=scaled)
        for number in range(4):
            adam.zero_grad()
            # The third step overflows where the loss is scaled; without a scaler it is left out by hand.
            overflows = number == 2
            scaler.scale(net(torch.tensor([[1.0, 2.0, 4.0]])).sum() * (float("inf") if overflows else 1.0)).backward()
            if overflows and not scaled:
                pruner.targets[0].state["sensitivity"].mul_(0.5)
                continue
            scaler.step(adam)
            scaler.update()
            pruner.tick()
        return pruner.targets[0].state["sensitivity"]

    assert torch.equal(trained(scaled=True), trained(scaled=False))


def test_what_an_optimizer_applies_is_the_gradient_itself_without_a_scaler():
    weight = nn.Parameter(torch.ones(2))
    grad = torch.tensor([1.0, 2.0])
    assert applied_gradient(torch.optim.Adam([weight], fused=True), grad) is grad
