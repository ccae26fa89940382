"""What happens to gradients between the backward pass and the step: accumulated, clipped, zeroed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_dynprune import DynamicPruning
from tests.compatibility.runs import STRATEGIES, Module, fit, holds
from tests.conformance.loop import same

# For three optimizer steps an epoch, or two.
SHORT = {"schedule": {"name": "cubic", "begin": 1, "end": 7, "every": 2}}


@pytest.mark.parametrize("batches", [2, 4])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accumulated_gradients_are_exact_and_resume_to_the_bit(strategy, batches, tmp_path):
    # Four batches do not divide an epoch of six.
    _, pruning, _ = holds(tmp_path, strategy, save_at=5, settings=SHORT, accumulate_grad_batches=batches)
    assert pruning.pruner.clock.step == (12 if batches == 2 else 8)


class Zeroed(Module):
    """Sets gradients to zero in place, so that there is always one."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=False)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_that_are_zeroed_in_place_are_exact_and_resume_to_the_bit(strategy, tmp_path):
    holds(tmp_path, strategy, Zeroed)


def norm(module: Any) -> float:
    """Return the norm of all gradients, without those of pruned connections where a mask is hard."""
    ours = [c for c in module.trainer.callbacks if isinstance(c, DynamicPruning)]
    masks = {n: mask for c in ours if not c.pruner.strategy.latent for n, mask in c.masks.items()}
    squares = [
        (p.grad.double() if n not in masks else torch.where(masks[n], p.grad, 0.0).double()).square().sum()
        for n, p in module.named_parameters()
    ]
    return float(torch.stack(squares).sum().sqrt())


class Clipped(Module):
    """Notes the norm of what trains before the clipping and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[tuple[float, float]] = []

    def noted(self, clip: Any) -> None:
        before = norm(self)
        clip()
        self.norms.append((before, norm(self)))

    def clipped_to(self, most: float) -> None:
        """Assert that each norm was as large as it may be, and that some had to be clipped."""
        assert any(before > most for before, _ in self.norms)
        for before, after in self.norms:
            assert after == pytest.approx(min(before, most), rel=1e-3)


class ByTrainer(Clipped):
    def configure_gradient_clipping(self, optimizer: Any, *settings: Any, **named: Any) -> None:
        self.noted(lambda: self.clip_gradients(optimizer, *settings, **named))


class ByItself(Clipped):
    def configure_gradient_clipping(self, optimizer: Any, *settings: Any, **named: Any) -> None:
        self.noted(lambda: self.clip_gradients(optimizer, 0.1, "norm"))


class ByHand(Clipped):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer, loss = self.optimizers(), self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.noted(lambda: self.clip_gradients(optimizer, 0.1, "norm"))
        optimizer.step()
        return loss


@pytest.mark.parametrize("make", [ByTrainer, ByItself, ByHand])
@pytest.mark.parametrize("strategy", [*STRATEGIES, "rigl"])
def test_a_norm_is_that_of_what_trains_wherever_lightning_clips_by_it(strategy, make, tmp_path):
    settings = {"gradient_clip_val": 0.1} if make is ByTrainer else {}
    module, _, run = holds(tmp_path, strategy, make, **settings)
    module.clipped_to(0.1)
    # Nothing of ours stays on the Trainer.
    assert "clip_gradients" not in vars(run.precision_plugin)


def test_rigl_grows_as_well_where_a_module_clips_by_hand(tmp_path):
    by_hand, _, _ = fit(tmp_path, "rigl", ByHand)
    by_trainer, _, _ = fit(tmp_path, "rigl", ByTrainer, gradient_clip_val=0.1)
    assert same(by_hand.state_dict(), by_trainer.state_dict())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_clipping_by_value_is_exact_and_resumes_to_the_bit(strategy, tmp_path):
    holds(tmp_path, strategy, gradient_clip_val=0.01, gradient_clip_algorithm="value")


def test_two_callbacks_clip_by_one_norm_and_the_last_to_leave_takes_all_away(tmp_path):
    def second() -> list[DynamicPruning]:
        return [
            DynamicPruning(0.5, "magnitude", targets="net.3.*", name="last", schedule={"name": "one_shot", "begin": 3})
        ]

    module, _, run = holds(tmp_path, "taylor", ByItself, settings={"targets": "net.0.*"}, callbacks=second)
    module.clipped_to(0.1)
    assert "clip_gradients" not in vars(run.precision_plugin)
