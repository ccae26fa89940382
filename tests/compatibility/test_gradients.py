"""What happens to gradients between the backward pass and the step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_dynprune import DynamicPruning
from tests.compatibility.runs import STRATEGIES, Module, holds, network


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accumulated_gradients(strategy, tmp_path):
    schedule = {"name": "cubic", "begin": 2, "end": 10, "every": 2}
    _, ours, _ = holds(tmp_path, strategy, accumulate_grad_batches=2, save_at=5, settings={"schedule": schedule})
    assert ours.pruner is not None
    assert ours.pruner.clock.step == 12  # optimizer steps, of 24 batches


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_clipped_gradients(strategy, algorithm, tmp_path):
    holds(tmp_path, strategy, gradient_clip_val=0.05, gradient_clip_algorithm=algorithm)


class Zeroing(Module):
    """Gradients that are set to zero and never to None."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=False)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "rigl"])
def test_gradients_that_are_zeroed_and_kept(strategy, tmp_path):
    holds(tmp_path, strategy, Zeroing)


class ByHand(Module):
    """Manual optimization that clips by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.norms: list[float] = []
        self.pruned: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.clip_gradients(optimizer, gradient_clip_val=0.05, gradient_clip_algorithm="norm")
        grads = [p.grad for p in self.net.parameters()]
        self.norms.append(float(nn.utils.get_total_norm(grads)))
        (ours,) = [c for c in self.trainer.callbacks if isinstance(c, DynamicPruning)]
        parameters = dict(self.named_parameters())
        self.pruned += [float(parameters[name].grad[~mask].abs().sum()) for name, mask in ours.masks.items()]
        optimizer.step()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_clipped_by_hand_leave_out_what_is_pruned(strategy, tmp_path):
    module, _, _ = holds(tmp_path, strategy, ByHand)
    # All that is left of a clipped gradient is of connections that train.
    assert module.norms
    assert max(module.norms) <= 0.05 * 1.001
    # Latent weights all train.
    assert any(module.pruned) is (strategy == "straight_through")


class TwoPlayers(Module):
    """A small GAN: a generator and a discriminator, each with an optimizer, stepped by hand and in turn."""

    def __init__(self) -> None:
        super().__init__(nn.ModuleDict({"generator": network(), "discriminator": nn.Sequential(
            nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))}))  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(3)
            for parameter in self.net["discriminator"].parameters():
                parameter.data = torch.randn(parameter.shape) * 0.3
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        noise, y = batch
        real = nn.functional.one_hot(y, 4).float()
        judge, make = self.optimizers()
        for optimizer in (judge, make):
            self.toggle_optimizer(optimizer)
            made = self.net["generator"](noise)
            if optimizer is judge:
                verdicts = torch.cat([self.net["discriminator"](real), self.net["discriminator"](made.detach())])
                wanted = torch.cat([torch.ones(len(real), 1), torch.zeros(len(made), 1)])
            else:
                verdicts, wanted = self.net["discriminator"](made), torch.ones(len(made), 1)
            optimizer.zero_grad()
            self.manual_backward(nn.functional.binary_cross_entropy_with_logits(verdicts, wanted))
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.net["generator"](batch[0]).square().mean())

    def configure_optimizers(self) -> Any:
        players = (self.net["discriminator"], self.net["generator"])
        return [torch.optim.Adam(player.parameters(), lr=1e-2, weight_decay=1e-2) for player in players]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_gan_whose_players_are_both_pruned(strategy, tmp_path):
    # Lightning counts the steps of both optimizers, the pruning those of the first.
    _, ours, run = holds(tmp_path, strategy, TwoPlayers, save_at=20)
    assert run.global_step == 48
    assert ours.pruner is not None
    assert ours.pruner.clock.step == 24
    assert {name.split(".")[1] for name in ours.masks} == {"generator", "discriminator"}


def test_snip_cannot_score_players_that_have_had_no_gradient(tmp_path):
    with pytest.raises(RuntimeError, match="has no gradient at this update, and the strategy reads it"):
        holds(tmp_path, "snip", TwoPlayers, settings={"schedule": None})
