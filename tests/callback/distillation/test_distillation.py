"""Distillation in a fit equals the same loss written by hand, leaves nothing behind, and resumes exactly."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynprune import Distillation, DynamicPruning
from tests.training import trainer

ALPHA, TEMPERATURE = 0.7, 3.0


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


class Module(L.LightningModule):
    """A user's module, which knows nothing of a teacher."""

    def __init__(self, returns: str = "tensor") -> None:
        super().__init__()
        self.net, self.returns = network(0), returns
        self.losses: list[float] = []

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        if self.returns == "mapping":
            return {"loss": loss, "more": 1}
        return None if self.returns == "none at times" and batch_idx % 2 else loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(88, 6, generator=generator)
        return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), 8)  # 11 batches


class ByHand(Module):
    """The same, with the teacher written into the loss."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = [teacher]

    def loss(self, batch: Any) -> Tensor:
        scores = self.net(batch[0])
        with torch.no_grad():
            wanted = self.teacher[0](batch[0])
        own, other = (F.log_softmax(each.float() / TEMPERATURE, 1) for each in (scores, wanted))
        distance = F.kl_div(own, other, reduction="none", log_target=True).sum(1).mean() * TEMPERATURE**2
        return (1 - ALPHA) * F.cross_entropy(scores, batch[1]) + ALPHA * distance


def distilled(teacher: Any, **settings: Any) -> DynamicPruning:
    settings = {"alpha": ALPHA, "temperature": TEMPERATURE, **settings}
    return DynamicPruning(0.5, "magnitude", distill=Distillation(teacher, **settings))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("accumulate", [1, 4])  # the last window of the epoch holds three batches
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_equals_the_loss_written_by_hand(tmp_path, precision, accumulate):
    settings = {
        "max_epochs": 2,
        "precision": precision,
        "accumulate_grad_batches": accumulate,
        "gradient_clip_val": 1.0,
    }
    by_hand = ByHand(network(7))
    trainer([DynamicPruning(0.5, "magnitude")], tmp_path, **settings).fit(by_hand)
    module = Module()
    trainer([distilled(network(7))], tmp_path, **settings).fit(module)
    plain = Module()
    trainer([DynamicPruning(0.5, "magnitude")], tmp_path, **settings).fit(plain)
    assert equal(weights(module), weights(by_hand))
    assert not equal(weights(module), weights(plain))


def test_losses_in_mappings_and_steps_that_are_skipped(tmp_path):
    module, mapping = Module(), Module("mapping")
    for each in (module, mapping):
        trainer([distilled(network(7))], tmp_path, max_epochs=1).fit(each)
    assert equal(weights(module), weights(mapping))
    skipping = Module("none at times")
    trainer([distilled(network(7))], tmp_path, max_epochs=1).fit(skipping)
    assert not equal(weights(module), weights(skipping))


def test_nothing_is_left_on_the_module_or_in_a_checkpoint_but_a_checksum(tmp_path):
    module, teacher = Module(), network(7)
    before = weights(teacher)
    modes = [(each.training, [p.requires_grad for p in each.parameters()]) for each in teacher.modules()]
    fit = trainer([pruning := distilled(teacher)], tmp_path, max_epochs=1)
    fit.fit(module)
    assert "training_step" not in vars(module)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())
    assert module.state_dict().keys() == Module().state_dict().keys()
    assert equal(before, weights(teacher))
    assert [(each.training, [p.requires_grad for p in each.parameters()]) for each in teacher.modules()] == modes
    fit.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == module.state_dict().keys()
    state = saved["callbacks"]["DynamicPruning"]
    assert isinstance(state["teacher"], int)
    assert isinstance(pruning.sparsity, float)


@pytest.mark.parametrize("teacher", ["module", "dense"])
def test_a_run_resumed_in_the_middle_equals_the_one_that_was_not_stopped(tmp_path, teacher):
    def teacher_of() -> Any:
        return "dense" if teacher == "dense" else network(7)

    half = ModelCheckpoint(tmp_path, "half", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True)
    whole = Module()
    trainer([distilled(teacher_of()), half], tmp_path, max_steps=20, max_epochs=None).fit(whole)
    resumed = Module()
    trainer([distilled(teacher_of())], tmp_path, max_steps=20, max_epochs=None).fit(
        resumed, ckpt_path=tmp_path / "half.ckpt"
    )
    assert equal(weights(whole), weights(resumed))
    with pytest.raises(
        ValueError, match=r"distill: the run of the checkpoint had another teacher; resume with the same"
    ):
        trainer([distilled(network(8))], tmp_path, max_steps=20).fit(Module(), ckpt_path=tmp_path / "half.ckpt")
    with pytest.raises(ValueError, match=r"its run was distilled, so it cannot be resumed without distill"):
        trainer([DynamicPruning(0.5, "magnitude")], tmp_path, max_steps=20).fit(
            Module(), ckpt_path=tmp_path / "half.ckpt"
        )


def test_the_dense_teacher_is_the_module_as_it_was_when_the_fit_began(tmp_path):
    teacher, module, by_hand = network(0), Module(), ByHand(network(0))
    assert equal(weights(teacher), weights(module.net))
    trainer([distilled("dense")], tmp_path, max_epochs=2).fit(module)
    trainer([DynamicPruning(0.5, "magnitude")], tmp_path, max_epochs=2).fit(by_hand)
    assert equal(weights(module), weights(by_hand))


def test_named_modules_are_compared_with_the_teachers_outputs(tmp_path):
    seen: list[float] = []

    class Watched(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            with torch.no_grad():  # not compared: it runs without gradients
                own = [self.net[:1](batch[0]), self.net[:3](batch[0])]
                other = [teacher[:1](batch[0]), teacher[:3](batch[0])]
                seen.append(
                    float(sum(F.mse_loss(a, b) / b.square().mean() for a, b in zip(own, other, strict=True)) / 2)
                )
            return super().training_step(batch, batch_idx)

    teacher, logged = network(7), []

    class Log(L.Callback):
        def on_train_end(self, trainer, pl_module):
            logged.append(float(trainer.callback_metrics["dynprune/distillation"]))

    module = Watched()
    callbacks = [distilled(teacher, on=["net.0", "net.2"]), Log()]
    trainer(callbacks, tmp_path, max_epochs=1, limit_train_batches=1).fit(module)
    assert logged == [pytest.approx(seen[0], rel=1e-5)]


def test_a_step_that_raises_leaves_the_module_as_it_was(tmp_path):
    class Failing(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 2:
                raise RuntimeError("the step fails")
            return super().training_step(batch, batch_idx)

    module = Failing()
    with pytest.raises(RuntimeError, match="the step fails"):
        trainer([distilled(network(7))], tmp_path, max_epochs=1).fit(module)
    assert "training_step" not in vars(module)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())


class Twice(Module):
    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.net[2:](self.net[:2](batch[0])), batch[1])


class Manual(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Without(Module):
    def loss(self, batch: Any) -> Tensor:
        return F.linear(batch[0], self.net[0].weight).square().mean()


@pytest.mark.parametrize(
    ("module", "teacher", "settings", "message"),
    [
        (Manual, network(7), {}, r"does not go with automatic_optimization=False"),
        (Module, network(7), {"on": "net.9"}, r"on='net\.9' matches none of the modules net, net\.0"),
        (Module, network(7)[:3], {}, r"returns the shape \(8, 3\), and the teacher's \(8, 16\)"),
        (Module, network(7)[:3], {"on": "net.4"}, r"the teacher has no module '4', which on= names"),
        (Without, network(7), {}, r"training_step has not run a module with parameters with gradients"),
    ],
)
def test_what_cannot_be_distilled_is_refused_in_words(tmp_path, module, teacher, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer([distilled(teacher, **settings)], tmp_path, max_epochs=1).fit(module())


def test_two_networks_in_one_step_need_names(tmp_path):
    with pytest.raises(ValueError, match=r"calls module 'net\.\d' and module 'net\.\d' one after the other"):
        trainer([distilled(Module())], tmp_path, max_epochs=1).fit(Twice())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"teacher": "sparse"}, TypeError, "teacher='sparse' is not accepted; give 'dense' or a trained module"),
        ({"teacher": "dense", "alpha": 1.5}, ValueError, "distill: alpha=1.5"),
        ({"teacher": "dense", "temperature": 0}, ValueError, "temperature=0 is not accepted; give a number above 0"),
        ({"teacher": "dense", "on": []}, TypeError, r"on=\[\] is not accepted"),
    ],
)
def test_settings_out_of_range_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        Distillation(**settings)
    with pytest.raises(TypeError, match=r"distill=0\.5 is not accepted; give a Distillation or None"):
        DynamicPruning(0.5, distill=0.5)
