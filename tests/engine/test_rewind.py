"""Rewinding: after every update the weights are what they were early in training."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner, sealed

SCHEDULE = {"name": "linear", "begin": 5, "end": 15, "every": 5}


class Run:
    def __init__(self, rewind: int | None = 3, **settings) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
        self.adam = torch.optim.Adam(self.net.parameters(), lr=0.05)
        self.pruner = Pruner(self.net, self.adam, sparsity=0.6, schedule=SCHEDULE, rewind=rewind, **settings)
        self.done = 0

    def step(self):
        generator = torch.Generator().manual_seed(self.done)
        self.adam.zero_grad()
        self.net(torch.randn(16, 8, generator=generator)).square().mean().backward()
        self.adam.step()
        self.done += 1
        return self.pruner.tick()

    def state(self) -> dict:
        return {"net": self.net.state_dict(), "adam": self.adam.state_dict(), "pruner": self.pruner.state_dict()}

    def load(self, state: dict, done: int) -> None:
        self.net.load_state_dict(state["net"])
        self.adam.load_state_dict(state["adam"])
        self.pruner.load_state_dict(state["pruner"])
        self.done = done


def copied(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("step", [0, 3])
def test_after_an_update_what_is_kept_is_as_it_was_and_slots_are_empty(step):
    run = Run(step)
    early = copied(run.net) if step == 0 else None
    updates = 0
    while run.done < 20:
        update = run.step()
        if run.done == step:
            early = copied(run.net)
        if update is None:
            assert run.adam.state
            continue
        updates += 1
        masks = {t.name: m for t, m in zip(run.pruner.targets, run.pruner.masks.tensors, strict=True)}
        for name, value in run.net.state_dict().items():
            expected = early[name] if name not in masks else torch.where(masks[name], early[name], 0.0)
            assert torch.equal(value, expected), name
        assert not run.adam.state
    assert updates == 3
    assert run.pruner.sparsity == pytest.approx(0.6, abs=1 / 132)
    # It trained on from there.
    assert not torch.equal(run.net[0].bias, early["0.bias"])


def test_masks_are_chosen_by_the_trained_weights_not_the_early_ones():
    run = Run(0, strategy="magnitude")
    while run.done < 9:
        run.step()
    trained = torch.cat([t.parameter.detach().abs().view(-1) for t in run.pruner.targets])
    run.step()
    kept = torch.cat([m.view(-1) for m in run.pruner.masks.tensors])
    by_trained = trained.argsort(descending=True)[: int(kept.sum())]
    assert len(set(by_trained.tolist()) & set(kept.nonzero().view(-1).tolist())) > 0.9 * int(kept.sum())
    early = torch.cat([t.parameter.detach().abs().view(-1) for t in Run(0, strategy="magnitude").pruner.targets])
    by_early = early.argsort(descending=True)[: int(kept.sum())]
    assert set(by_early.tolist()) != set(kept.nonzero().view(-1).tolist())


@pytest.mark.parametrize("killed_at", [2, 7])
def test_a_resumed_run_rewinds_to_the_same_weights(killed_at):
    unbroken = Run()
    while unbroken.done < 20:
        unbroken.step()
    killed = Run()
    while killed.done < killed_at:
        killed.step()
    file = io.BytesIO()
    torch.save(killed.state(), file)
    resumed = Run()
    for parameter in resumed.net.parameters():
        nn.init.constant_(parameter, 9.0)
    resumed.load(torch.load(io.BytesIO(file.getvalue()), weights_only=True), killed_at)
    while resumed.done < 20:
        resumed.step()
    for name, value in unbroken.net.state_dict().items():
        assert torch.equal(resumed.net.state_dict()[name], value), name


def test_updates_before_the_copy_change_no_weights_that_stay():
    run = Run(10)
    while run.done < 4:
        run.step()
    # The same run without rewind is the same up to there.
    plain = Run(None)
    while plain.done < 6:
        plain.step()
    while run.done < 6:
        run.step()
    assert all(torch.equal(a, b) for a, b in zip(run.net.parameters(), plain.net.parameters(), strict=True))


def test_weights_of_another_model_are_refused():
    state = Run().pruner.state_dict()
    state = sealed({**state, "rewind": {"0.weight": torch.zeros(2, 2)}})
    with pytest.raises(ValueError, match="weights to rewind to are of another model"):
        Run().pruner.load_state_dict(state)


@pytest.mark.parametrize("bad", [-1, 1.5, True, "3"])
def test_what_is_no_number_of_steps_is_refused(bad):
    with pytest.raises(ValueError, match=f"rewind={bad!r} is not accepted; give a number of optimizer steps"):
        Run(bad)


def test_latent_weights_are_refused():
    with pytest.raises(ValueError, match="rewind=3 does not go with strategy=Surgery, whose latent weights"):
        Run(3, strategy="surgery")
