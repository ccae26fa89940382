"""Several optimizers, stepped by hand in turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_dynprune.engine import Pruner
from tests.compatibility.runs import STRATEGIES, Module, holds

SNIP = {"schedule": {"name": "one_shot", "begin": 0}}


class Gan(Module):
    """A generator and a critic, both pruned; each learns through the other."""

    critic_first = False  # the generator's optimizer is the clock
    every = 1  # batches from one step of the critic to the next
    toggles = True
    zeroes_after = False
    clips = False

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            generator = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8))
            critic = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
        super().__init__(nn.ModuleDict({"generator": generator, "critic": critic}))
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.net["generator"].parameters(), lr=1e-2, weight_decay=1e-2),
            torch.optim.SGD(self.net["critic"].parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-2),
        ]

    def fooled(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(-self.net["critic"](self.net["generator"](x[:, :4]))).mean()

    def tells(self, x: Tensor) -> Tensor:
        fake = self.net["generator"](x[:, :4]).detach()
        return (
            nn.functional.softplus(self.net["critic"](fake)) + nn.functional.softplus(-self.net["critic"](x))
        ).mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        turns = list(zip(self.optimizers(), (self.fooled, self.tells), strict=True))
        for optimizer, loss in reversed(turns) if self.critic_first else turns:
            if loss == self.tells and batch_idx % self.every:
                continue
            if self.toggles:
                self.toggle_optimizer(optimizer)
            if not self.zeroes_after:
                optimizer.zero_grad()
            self.manual_backward(loss(batch[0]))
            if self.clips:
                self.clip_gradients(optimizer, 0.05, "norm")
            optimizer.step()
            if self.zeroes_after:
                optimizer.zero_grad()
            if self.toggles:
                self.untoggle_optimizer(optimizer)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.tells(batch[0]))


def a_gan(**settings: Any) -> type[Gan]:
    return type("Made", (Gan,), settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"toggles": True, "zeroes_after": True},
        {"toggles": True, "critic_first": True, "clips": True},
        {"toggles": False},
    ],
    ids=["generator first", "critic first, clipped", "not toggled"],
)
@pytest.mark.parametrize("strategy", [*STRATEGIES, "rigl", "snip"])
def test_a_gan_is_exact_and_resumes_to_the_bit(strategy, settings, tmp_path):
    # Two optimizers count twice a batch in Lightning, and once in ours.
    pruned = SNIP if strategy == "snip" else None
    module, pruning, run = holds(tmp_path, strategy, a_gan(**settings), save_at=20, settings=pruned)
    assert run.global_step == 2 * pruning.pruner.clock.step == 48
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("strategy", [*STRATEGIES, "rigl", "snip"])
def test_a_critic_that_steps_now_and_then_lets_an_update_that_reads_its_gradients_wait(strategy, tmp_path):
    pruned = SNIP if strategy == "snip" else {"schedule": {"name": "cubic", "begin": 2, "end": 12, "every": 2}}
    seen: list[int] = []

    class Slow(a_gan(every=3)):
        def on_train_batch_end(self, *args: Any) -> None:
            (pruner,) = [c.pruner for c in self.trainer.callbacks if hasattr(c, "pruner")]
            seen.append(pruner.updates)

    _, pruning, _ = holds(tmp_path, strategy, Slow, save_at=15, settings=pruned)
    whole = seen[:24]  # of the run that was not left
    updated = [batch for batch, (before, after) in enumerate(zip([0, *whole], whole, strict=False)) if after > before]
    assert updated
    if strategy in ("rigl", "snip"):
        assert all(batch % 3 == 0 for batch in updated)
    else:
        assert pruning.pruner.clock.step == 24


@pytest.mark.parametrize("strategy", [*STRATEGIES, "rigl", "snip"])
def test_optimizers_that_take_a_batch_each_wait_for_one_another_and_resume_in_between_to_the_bit(strategy, tmp_path):
    class Alternating(Gan):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer, loss = ((self.optimizers()[0], self.fooled), (self.optimizers()[1], self.tells))[batch_idx % 2]
            optimizer.zero_grad()
            self.manual_backward(loss(batch[0]))
            optimizer.step()

    pruned = SNIP if strategy == "snip" else {"schedule": {"name": "cubic", "begin": 2, "end": 6, "every": 2}}
    save_at = 1 if strategy == "snip" else 9
    _, pruning, _ = holds(tmp_path, strategy, Alternating, save_at=save_at, settings=pruned)
    assert pruning.pruner.updates == (1 if strategy == "snip" else 3)


def test_each_of_several_optimizers_is_read_by_the_gradients_that_it_stepped_by():
    net = nn.ModuleList([nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)])
    net[0].weight.data, net[1].weight.data = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.0]])
    optimizers = [torch.optim.SGD(linear.parameters(), lr=1e-3) for linear in net]
    threshold = {"name": "topk", "scope": "global"}
    pruner = Pruner(net, optimizers, sparsity=0.5, strategy="snip", threshold=threshold, schedule=SNIP["schedule"])
    net[0].weight.grad = torch.tensor([[1.0, 4.0]])
    optimizers[0].step()
    assert pruner.updates == 0
    # What is left behind, or taken away, before the other's turn is not read.
    net[0].weight.grad = None
    net[1].weight.grad = torch.tensor([[3.0, 2.0]])
    optimizers[1].step()
    net[1].weight.grad = None
    pruner.tick()
    assert (pruner.updates, pruner.clock.step) == (1, 1)
    assert [mask.tolist() for mask in pruner.masks.tensors] == [[[False, True]], [[True, False]]]


def test_an_optimizer_without_its_turn_keeps_the_clock_and_the_masks_where_they_are():
    net = nn.ModuleList([nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)])
    optimizers = [torch.optim.SGD(linear.parameters(), lr=1e-3) for linear in net]
    pruner = Pruner(net, optimizers, sparsity=0.5, strategy="snip", schedule=SNIP["schedule"])
    net[0].weight.grad = torch.ones(1, 2)
    optimizers[0].step()
    assert pruner.tick() is None
    assert (pruner.clock.step, pruner.updates, pruner.sparsity) == (0, 0, 0.0)


class Toggled(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer = self.optimizers()
        self.toggle_optimizer(optimizer)
        loss = super().training_step(batch, batch_idx)
        self.untoggle_optimizer(optimizer)
        return loss


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_toggling_the_one_optimizer_of_automatic_optimization_changes_nothing(strategy, tmp_path):
    holds(tmp_path / "toggled", strategy, Toggled)
