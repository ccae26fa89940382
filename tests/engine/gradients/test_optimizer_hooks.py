"""Optimizer steps with and without closures, and steps that never happen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.engine.gradients import OptimizerHooks

EACH = {"name": "constant", "begin": 1, "end": 100, "every": 1}


def recorded(optimizer: torch.optim.Optimizer) -> tuple[OptimizerHooks, list[str]]:
    events: list[str] = []
    return OptimizerHooks([optimizer], lambda o: events.append("before"), lambda o: events.append("after")), events


def test_a_step_without_a_closure_is_between_before_and_after():
    weight = nn.Parameter(torch.ones(1))
    sgd = torch.optim.SGD([weight], lr=1.0)
    _, events = recorded(sgd)
    weight.grad = torch.ones(1)
    sgd.step()
    assert events == ["before", "after"]


@pytest.mark.parametrize("by_name", [True, False])
def test_before_follows_a_closure_and_its_loss_is_returned(by_name):
    weight = nn.Parameter(torch.ones(1))
    sgd = torch.optim.SGD([weight], lr=1.0)
    _, events = recorded(sgd)

    def closure():
        events.append("closure")
        weight.grad = torch.ones(1)
        return 5.0

    assert (sgd.step(closure=closure) if by_name else sgd.step(closure)) == 5.0
    assert events == ["after", "closure", "before", "after"]
    assert weight.item() == 0.0


def test_every_evaluation_of_a_closure_is_outside():
    weight = nn.Parameter(torch.tensor([3.0]))
    lbfgs = torch.optim.LBFGS([weight], max_iter=4, line_search_fn="strong_wolfe")
    _, events = recorded(lbfgs)

    def closure():
        events.append("closure")
        lbfgs.zero_grad()
        loss = (weight**4).sum()
        loss.backward()
        return loss

    lbfgs.step(closure)
    evaluations = events.count("closure")
    assert evaluations > 2
    assert events == ["after", "closure", "before"] * evaluations + ["after"]


def test_nothing_is_called_once_it_is_closed():
    weight = nn.Parameter(torch.ones(1))
    sgd = torch.optim.SGD([weight], lr=1.0)
    stepping, events = recorded(sgd)
    stepping.close()
    weight.grad = torch.ones(1)
    sgd.step()
    assert events == []


def pruned(make, weight: list[float], sparsity: float = 0.5) -> tuple[nn.Linear, torch.optim.Optimizer, Pruner]:
    net = nn.Linear(len(weight), 1, bias=False)
    net.weight.data = torch.tensor([weight])
    optimizer = make(net.parameters())
    pruner = Pruner(net, optimizer, sparsity=sparsity, strategy="straight_through", schedule=EACH)
    net.weight.grad = torch.zeros_like(net.weight)
    optimizer.step()
    pruner.tick()
    return net, optimizer, pruner


@pytest.mark.parametrize("with_closure", [True, False])
def test_the_forward_pass_sees_w_m_and_the_step_moves_w(with_closure):
    net, sgd, pruner = pruned(lambda p: torch.optim.SGD(p, lr=0.5), [1.0, -2.0, 3.0, -4.0])
    seen = []

    def closure():
        sgd.zero_grad()
        seen.append(net.weight[0].tolist())
        loss = net(torch.tensor([[1.0, 2.0, 1.0, 1.0]])).sum()
        loss.backward()
        return loss

    if with_closure:
        assert sgd.step(closure).item() == -1.0
    else:
        closure()
        sgd.step()
    assert seen == [[0.0, 0.0, 3.0, -4.0]]
    assert net.weight[0].tolist() == [0.0, 0.0, 2.5, -4.5]
    assert pruner.targets[0].state["latent"][0].tolist() == [0.5, -3.0, 0.0, 0.0]
    pruner.tick()
    assert net.weight[0].tolist() == [0.0, -3.0, 0.0, -4.5]


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_searches_among_the_living_alone(line_search):
    torch.manual_seed(0)
    x, y = torch.randn(32, 6), torch.randn(32, 1)
    settings = {"lr": 0.5, "max_iter": 5, "line_search_fn": line_search}
    net = nn.Linear(6, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0, -6.0]])
    lbfgs = torch.optim.LBFGS(net.parameters(), **settings)
    pruner = Pruner(net, lbfgs, sparsity=0.5, strategy="magnitude", schedule={"name": "one_shot", "begin": 1})
    evaluations = []

    def closure():
        evaluations.append(net.weight.detach().clone())
        lbfgs.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        return loss

    lbfgs.step(closure)
    pruner.tick()
    mask = pruner.masks.tensors[0]
    # The same optimizer, new, on the living weights of a smaller problem.
    plain = nn.Parameter(net.weight.detach()[mask])
    reference = torch.optim.LBFGS([plain], **settings)

    def plain_closure():
        reference.zero_grad()
        loss = nn.functional.mse_loss(x[:, mask[0]] @ plain.unsqueeze(1), y)
        loss.backward()
        return loss

    evaluations.clear()
    for _ in range(2):
        lbfgs.step(closure)
        pruner.tick()
        reference.step(plain_closure)
    assert len(evaluations) > 5
    assert all(not w.view(torch.int32)[~mask].any() for w in evaluations)
    torch.testing.assert_close(net.weight.detach()[mask], plain.detach(), rtol=1e-4, atol=1e-5)


def test_lbfgs_is_refused_where_weights_are_latent():
    net = nn.Linear(4, 1)
    with pytest.raises(ValueError, match="strategy=StraightThrough keeps latent weights, which LBFGS cannot train"):
        Pruner(net, torch.optim.LBFGS(net.parameters()), sparsity=0.5, strategy="straight_through", schedule=EACH)


@pytest.mark.parametrize("clipping", [False, True])
def test_lbfgs_leaves_rigl_the_dense_gradients_of_its_last_evaluation(clipping):
    net = nn.Linear(4, 1, bias=False)
    net.weight.data = torch.tensor([[3.0, -4.0, 0.5, 0.25]])
    lbfgs = torch.optim.LBFGS(net.parameters(), lr=1e-3, max_iter=2)
    strategy, schedule = {"name": "rigl", "exchange": 0.5}, {"name": "constant", "begin": 1, "end": 9, "every": 1}
    pruner = Pruner(net, lbfgs, sparsity=0.5, strategy=strategy, schedule=schedule)
    given = iter([[1.0, 1.0, 1.0, 2.0], [1.0, 1.0, 2.0, 1.0], [1.0, 1.0, 2.0, 1.0], [1.0, 1.0, 1.0, 2.0]])

    def closure():
        net.weight.grad = torch.tensor([next(given)])
        if clipping:
            pruner.mask_gradients(optimizer=lbfgs)
        return torch.tensor(1.0)

    pruner.masks.write(0, [torch.tensor([True, True, False, False])])
    pruner.apply()
    lbfgs.step(closure)
    pruner.tick()
    assert pruner.masks.tensors[0].tolist() == [[False, True, True, False]]
    lbfgs.step(closure)
    pruner.tick()
    assert pruner.masks.tensors[0].tolist() == [[False, True, False, True]]


def fused(strategy: str, begin: int) -> tuple[nn.Linear, torch.optim.Optimizer, torch.amp.GradScaler, Pruner]:
    net = nn.Linear(4, 1, bias=False)
    net.weight.data = torch.tensor([[3.0, -4.0, 2.0, 1.0]])
    adam = torch.optim.Adam(net.parameters(), lr=0.001, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    schedule = {"name": "constant", "begin": begin, "end": 9, "every": 1}
    strategy = {"name": "rigl", "exchange": 0.5} if strategy == "rigl" else strategy
    return net, adam, scaler, Pruner(net, adam, sparsity=0.5, strategy=strategy, schedule=schedule)


def scaled(net: nn.Linear, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, x: list[float]) -> None:
    optimizer.zero_grad()
    scaler.scale(net(torch.tensor([x])).sum()).backward()
    scaler.step(optimizer)
    scaler.update()


def test_a_start_that_reads_gradients_waits_for_a_step_that_a_fused_optimizer_does_not_skip():
    net, adam, scaler, pruner = fused("snip", begin=0)
    scaled(net, adam, scaler, [1.0, float("inf"), 1.0, 1.0])
    assert pruner.tick() is None
    assert (pruner.clock.step, pruner.updates, net.weight[0].tolist()) == (0, 0, [3.0, -4.0, 2.0, 1.0])
    scaled(net, adam, scaler, [1.0, 0.1, 1.0, 9.0])
    pruner.tick()
    assert pruner.clock.step == 1
    assert pruner.masks.tensors[0].tolist() == [[True, False, False, True]]


def test_an_update_that_reads_gradients_follows_the_next_step_where_a_fused_optimizer_skips_one():
    net, adam, scaler, pruner = fused("rigl", begin=1)
    pruner.masks.write(0, [torch.tensor([True, True, False, False])])
    pruner.apply()
    scaled(net, adam, scaler, [1.0, 1.0, float("inf"), 1.0])
    assert pruner.tick() is None
    assert (pruner.clock.step, net.weight[0].tolist()) == (0, [3.0, -4.0, 0.0, 0.0])
    scaled(net, adam, scaler, [1.0, 1.0, 1.0, 5.0])
    assert pruner.tick().grown == {"weight": 1}
    assert pruner.masks.tensors[0].tolist() == [[False, True, False, True]]


def test_a_step_that_a_gradient_scaler_skips_leaves_everything_as_it_was():
    net, sgd, pruner = pruned(lambda p: torch.optim.SGD(p, lr=0.5), [1.0, -2.0, 3.0, -4.0])
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before, waiting = net.weight.detach().clone(), pruner.targets[0].state["latent"].clone()
    net.weight.grad = None
    scaler.scale(net(torch.full((1, 4), float("inf"))).sum()).backward()
    scaler.step(sgd)
    scaler.update()
    assert torch.equal(net.weight.detach(), before)
    assert torch.equal(pruner.targets[0].state["latent"], waiting)
    sgd.zero_grad()
    scaler.scale(net(torch.tensor([[1.0, 2.0, 1.0, 1.0]])).sum()).backward()
    scaler.step(sgd)
    assert net.weight[0].tolist() == [0.0, 0.0, 2.5, -4.5]
    assert pruner.targets[0].state["latent"][0].tolist() == [0.5, -3.0, 0.0, 0.0]


def test_two_optimizers_move_their_own_targets_alone():
    net = nn.ModuleList([nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)])
    for linear in net:
        linear.weight.data = torch.tensor([[1.0, -2.0, 3.0, -4.0]])
    optimizers = [torch.optim.SGD(linear.parameters(), lr=1.0) for linear in net]
    schedule = {"name": "one_shot", "begin": 1}
    threshold = {"name": "topk", "scope": "uniform"}
    pruner = Pruner(net, optimizers, sparsity=0.5, strategy="surgery", threshold=threshold, schedule=schedule)
    pruner.tick()
    net[0].weight.grad = net[1].weight.grad = torch.ones(1, 4)
    optimizers[1].step()
    assert [linear.weight[0].tolist() for linear in net] == [[0.0, 0.0, 3.0, -4.0], [0.0, 0.0, 2.0, -5.0]]
    assert [t.state["latent"][0].tolist() for t in pruner.targets] == [[1.0, -2.0, 0.0, 0.0], [0.0, -3.0, 0.0, 0.0]]
