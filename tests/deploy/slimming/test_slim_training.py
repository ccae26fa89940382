"""Training on after slimming is training on with the masks, for every optimizer that works entry by entry."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lightning_dynprune.coupling import Narrowing, coupled_groups
from lightning_dynprune.deploy.slimming import slim
from tests.networks import Residual

OPTIMIZERS = {
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=1e-3),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.01, t0=10),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=1e-3),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=1e-4),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01),
}


def network():
    """A residual network in float64, so that the order of sums is not what is compared.

    No bias stands before a batch norm: its gradient is rounding alone, and Rprop steps by the sign of it.
    """
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        Residual(5, 6),
        nn.AdaptiveAvgPool2d(2),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 8), nn.GELU(), nn.Linear(8, 3)).double()


def batches(count, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(8, 2, 6, 6, generator=generator).double(), torch.randint(3, (8,), generator=generator)


def step(model, optimizer, batch):
    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    return optimizer.step(closure)


def pruned(make):
    """Return a network, its optimizer after 5 steps, and half of its channels pruned with their slots kept as is."""
    model = network()
    optimizer = make(model.parameters())
    for batch in batches(5, seed=1):
        step(model, optimizer, batch)
    groups = coupled_groups(model, torch.randn(2, 2, 6, 6).double()).groups
    kept = [torch.arange(group.units) % 2 == 0 for group in groups]
    Narrowing(model).zero(groups, kept)
    return model, optimizer, groups, kept


def twin(model, optimizer, make):
    """Return a copy of a model and of its optimizer."""
    other = copy.deepcopy(model)
    copied = make(other.parameters())
    copied.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return other, copied


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_on_is_what_it_would_be_with_the_masks(name):
    make = OPTIMIZERS[name]
    model, optimizer, groups, kept = pruned(make)
    other, copied = twin(model, optimizer, make)
    objects = list(model.parameters())
    report = slim(model, torch.randn(2, 2, 6, 6).double(), optimizer)
    assert {group: after for group, (_, after) in report.widths.items()} == {
        group.name: int(keep.sum()) for group, keep in zip(groups, kept, strict=True)
    }
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], objects, strict=True))
    hold = Narrowing(other)
    for batch in batches(50, seed=2):
        loss = step(model, optimizer, batch)
        masked = step(other, copied, batch)
        hold.zero(groups, kept)
        assert abs(loss.item() - masked.item()) < 1e-5
    hold.narrow(groups, kept)
    for (key, slim_), (_, dense) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.allclose(slim_, dense, atol=1e-5, rtol=0), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_slot_has_the_values_it_had_at_the_places_that_stayed(name):
    model, optimizer, groups, kept = pruned(OPTIMIZERS[name])
    before = copy.deepcopy(optimizer.state_dict()["state"])
    dense = Narrowing(copy.deepcopy(model))
    stayed = dense.narrow(groups, kept)
    slim(model, torch.randn(2, 2, 6, 6).double(), optimizer)
    narrowed = 0
    for position, (key, parameter) in enumerate(model.named_parameters()):
        for slot, value in optimizer.state[parameter].items():
            old = before[position][slot]
            if torch.is_tensor(value) and value.shape == parameter.shape:
                for dim, positions in stayed.get(key, {}).items():
                    old = old.index_select(dim, positions)
                    narrowed += 1
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(old)), (key, slot)
    assert narrowed


def test_adafactor_goes_on_with_the_same_estimates_and_its_own_step_size():
    # Its step is scaled by the root mean square of whole tensors, zeros included, so that a slim tensor steps otherwise
    # than a masked one; what can be kept is its estimate of each squared gradient.
    def make(parameters):
        return torch.optim.Adafactor(parameters, lr=1e-3)

    def estimate(state):
        row, column = state["row_var"], state["col_var"]
        return row @ column / row.mean(dim=-2, keepdim=True)

    model, optimizer, _, _ = pruned(make)
    # Gradients of pruned channels are zero from here on; let the averages forget what they were before.
    for parameter in model.parameters():
        for name, value in optimizer.state[parameter].items():
            if name in ("row_var", "col_var", "variance"):
                zeros = (parameter == 0).double() if name == "variance" else None
                rows = parameter.abs().sum(dim=-1, keepdim=True) == 0 if name == "row_var" else None
                columns = parameter.abs().sum(dim=-2, keepdim=True) == 0 if name == "col_var" else None
                value.masked_fill_(next(mask.bool() for mask in (zeros, rows, columns) if mask is not None), 0)
    linear, before = model[6].weight, estimate(optimizer.state[model[6].weight])
    rows, columns = linear.ne(0).any(1), linear.ne(0).any(0)
    slim(model, torch.randn(2, 2, 6, 6).double(), optimizer)
    assert torch.allclose(estimate(optimizer.state[linear]), before[rows][:, columns])
    for batch in batches(5, seed=2):
        step(model, optimizer, batch)


def test_muon_goes_on():
    # Its step is scaled by the shape and computed in bfloat16, so that a slim matrix steps otherwise than a masked one.
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))
    optimizer = torch.optim.Muon(model.parameters(), lr=1e-3)
    x = torch.randn(16, 6)
    model(x).square().mean().backward()
    optimizer.step()
    model[0].weight.data[3], model[2].weight.data[:, 3] = 0, 0
    kept = [0, 1, 2, 4, 5, 6, 7]
    before = optimizer.state[model[0].weight]["momentum_buffer"].clone()
    slim(model, x, optimizer)
    assert torch.equal(optimizer.state[model[0].weight]["momentum_buffer"], before[kept])
    model.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def test_lbfgs_starts_anew_and_says_so():
    def make(parameters):
        return torch.optim.LBFGS(parameters, lr=0.1, max_iter=3)

    model, optimizer, groups, kept = pruned(make)
    other = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="LBFGS: its history"):
        slim(model, torch.randn(2, 2, 6, 6).double(), optimizer)
    batch = next(batches(1, seed=2))
    hold, fresh = Narrowing(other), make(other.parameters())
    assert abs(step(model, optimizer, batch).item() - step(other, fresh, batch).item()) < 1e-9
    hold.narrow(groups, kept)
    for slim_, dense in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(slim_, dense, atol=1e-9)


def test_several_optimizers_and_one_that_has_not_stepped_follow_too():
    model = network()
    first = torch.optim.Adam(list(model.parameters())[:4])
    second = torch.optim.SGD(list(model.parameters())[4:], lr=0.1, momentum=0.9)
    x = torch.randn(2, 2, 6, 6).double()
    groups = coupled_groups(model, x).groups
    Narrowing(model).zero(groups, [torch.arange(group.units) > 1 for group in groups])
    slim(model, x, [first, second])
    for batch in batches(2, seed=2):
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        first.step()
        second.step()
    assert first.state[model[0].weight]["exp_avg"].shape == model[0].weight.shape == (4, 2, 3, 3)


class Preconditioned(torch.optim.SGD):
    """Keeps a matrix over the rows of each parameter, as Shampoo does."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["left"] = torch.eye(len(parameter) + 1)


def test_a_slot_that_cannot_follow_puts_everything_back():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].weight.data[:, 1:3] = 0
    optimizer = Preconditioned(model.parameters())
    optimizer.step()
    with pytest.raises(ValueError, match=r"Preconditioned keeps 'left' of shape \(5, 5\)"):
        slim(model, torch.randn(2, 3), optimizer)
    assert model[0].weight.shape == (4, 3)
    assert model[0].out_features == 4
