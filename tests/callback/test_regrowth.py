"""Strategies whose connections come back, in a Lightning Trainer."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynprune import DynamicPruning
from lightning_dynprune.engine import AccuracyGuard
from tests import training
from tests.conformance.loop import same

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*is down to min_kept"),
    pytest.mark.filterwarnings("ignore:.*is short of the target"),
]


class Net(L.LightningModule):
    """A user's module that notes how many zeros each forward pass saw."""

    automatic_optimization = True

    def __init__(self, accumulate: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))
        self.accumulate = accumulate
        self.zeros: list[int] = []

    def training_step(self, batch, batch_idx):
        self.zeros.append(sum(int((self.net[i].weight == 0).sum()) for i in (0, 2)))
        return nn.functional.cross_entropy(self.net(batch[0].to(self.net[0].weight.dtype)), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", 0.9 - 0.02 * self.current_epoch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Manual(Net):
    """The same, stepped by hand, with as many batches accumulated."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        if batch_idx % self.accumulate == 0:
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx) / self.accumulate)
        if (batch_idx + 1) % self.accumulate == 0:
            optimizer.step()


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 12, generator=generator)
    return list(zip(x.split(8), x[:, :4].argmax(1).split(8), strict=True))


def loader() -> DataLoader:
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    return DataLoader(TensorDataset(x, y), batch_size=8)


trainer = partial(training.trainer, max_epochs=3, num_sanity_val_steps=0)


class EveryStep(L.Callback):
    """Checks after every batch that parameters are w m, +0.0 where pruned."""

    def __init__(self, pruning: DynamicPruning) -> None:
        self.pruning, self.batches, self.behind = pruning, 0, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches += 1
        pruner = self.pruning.pruner
        for target, mask in zip(pruner.targets, pruner.masks.tensors, strict=True):
            kind = {4: torch.int32, 8: torch.int64}[target.parameter.element_size()]
            assert not target.parameter.detach().view(kind)[~mask].any()
            if pruner.strategy.latent:
                assert not target.state["latent"].view(kind)[mask].any()
                self.behind += int((target.state["latent"] != 0).sum())


EACH_FOUR = {"name": "linear", "begin": 4, "end": 20, "every": 4}


def straight_through(steps: int, accumulate: int, dtype: torch.dtype, mixed: bool) -> tuple[list, list]:
    """Train by hand: the gradient at w m moves w; masks are the largest |w| of both layers."""
    net = Net().net.to(dtype)
    latent = [p.detach().clone().requires_grad_() for p in net.parameters()]
    masks = [torch.ones_like(p, dtype=torch.bool) for p in latent]
    sgd = torch.optim.SGD(latent, lr=0.1, momentum=0.9)
    data = batches() * 10
    for step in range(1, steps + 1):
        for p, w, m in zip(net.parameters(), latent, masks, strict=True):
            p.data, p.grad = torch.where(m, w.detach(), 0.0), None
        for x, y in data[(step - 1) * accumulate : step * accumulate]:
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                loss = nn.functional.cross_entropy(net(x.to(dtype)), y) / accumulate
            loss.backward()
        for p, w in zip(net.parameters(), latent, strict=True):
            w.grad = p.grad
        sgd.step()
        if step % 4 == 0 and step <= 20:
            pruned = math.floor(0.8 * (step - 4) / 16 * 256 + 0.5)
            sizes = torch.cat([latent[i].detach().abs().view(-1) for i in (0, 2)])
            keep = torch.zeros(256, dtype=torch.bool).index_fill_(0, sizes.topk(256 - pruned).indices, True)
            masks[0], masks[2] = keep[:192].view(16, 12), keep[192:].view(4, 16)
    return [w.detach() for w in latent], masks


@pytest.mark.parametrize(
    ("module", "accumulate", "precision"),
    [
        (Net, 1, "32-true"),
        (Net, 2, "32-true"),
        (Net, 1, "64-true"),
        (Net, 2, "bf16-mixed"),
        (Manual, 1, "32-true"),
        (Manual, 2, "32-true"),
        (Manual, 1, "64-true"),
        (Manual, 1, "bf16-mixed"),
    ],
)
def test_latent_weights_train_as_straight_through_by_hand_does(module, accumulate, precision, tmp_path):
    model = module(accumulate)
    pruning = DynamicPruning(sparsity=0.8, strategy="straight_through", schedule=EACH_FOUR)
    watch = EveryStep(pruning)
    by_lightning = {} if module is Manual else {"accumulate_grad_batches": accumulate}
    trainer([watch, pruning], tmp_path, precision=precision, max_epochs=3 * accumulate, **by_lightning).fit(
        model, loader()
    )
    assert pruning.pruner.clock.step == 24
    assert watch.behind > 0
    dtype = torch.float64 if precision == "64-true" else torch.float32
    latent, masks = straight_through(24, accumulate, dtype, precision == "bf16-mixed")
    for i, target in zip((0, 2), pruning.pruner.targets, strict=True):
        assert torch.equal(pruning.masks[target.name], masks[i])
        torch.testing.assert_close(target.parameter.detach(), torch.where(masks[i], latent[i], 0.0))
        torch.testing.assert_close(target.state["latent"], torch.where(masks[i], 0.0, latent[i]))
    assert model.zeros[-1] == 205


class Adversaries(L.LightningModule):
    """Two optimizers with networks of their own, stepped by hand in turns, the second every other batch."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.generator, self.critic = nn.Linear(12, 12), nn.Linear(12, 1)

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        first.zero_grad()
        self.manual_backward(-self.critic(self.generator(batch[0])).mean())
        first.step()
        if batch_idx % 2:
            second.zero_grad()
            fake = self.critic(self.generator(batch[0]).detach()).mean()
            self.manual_backward(fake - self.critic(batch[0]).mean())
            second.step()

    def configure_optimizers(self):
        return [
            torch.optim.Adam(self.generator.parameters(), lr=0.01),
            torch.optim.SGD(self.critic.parameters(), lr=0.01, momentum=0.9),
        ]


@pytest.mark.parametrize("strategy", ["straight_through", "surgery", "movement", "set", "rigl"])
def test_two_optimizers_with_targets_of_their_own_keep_the_promises(strategy, tmp_path):
    model = Adversaries()
    schedule = {"name": "constant", "begin": 6, "end": 20, "every": 4}
    settings = {"strategy": strategy, "schedule": schedule, "threshold": {"name": "topk", "scope": "uniform"}}
    pruning = DynamicPruning(sparsity=0.5, **settings)
    watch = EveryStep(pruning)
    critic = model.critic.weight.detach().clone()
    trainer([watch, pruning], tmp_path).fit(model, loader())
    assert watch.batches == pruning.pruner.clock.step == 24
    assert [int((p == 0).sum()) for p in (model.generator.weight, model.critic.weight)] == [72, 6]
    living = pruning.masks["critic.weight"]
    assert (model.critic.weight != critic)[living].all()
    if pruning.pruner.strategy.latent:
        assert watch.behind > 0


@pytest.mark.parametrize(
    ("strategy", "first_forward"), [("set", 205), ("static", 205), ("snip", 0), ("rigl", 0), ("magnitude", 205)]
)
@pytest.mark.parametrize("module", [Net, Manual])
def test_a_start_comes_before_the_first_forward_pass_or_after_the_first_backward_pass(
    strategy, first_forward, module, tmp_path
):
    model = module()
    schedule = {"name": "one_shot", "begin": 0}
    pruning = DynamicPruning(sparsity=0.8, strategy=strategy, schedule=schedule)
    trainer([pruning], tmp_path, max_epochs=1).fit(model, loader())
    assert model.zeros == [first_forward] + [205] * 7
    assert pruning.pruner.updates == 1
    assert pruning.pruner.last_update.step == 0


class SaveAtStart(L.Callback):
    """Saves before the first batch, as a run that is stopped at once does."""

    def __init__(self, path) -> None:
        self.path = path

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 0 and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("strategy", ["set", "static", "snip", "rigl"])
@pytest.mark.parametrize("step", [0, 8])
def test_a_start_is_not_repeated_on_resume(strategy, step, tmp_path):
    def settings() -> dict[str, Any]:
        every = {"name": "constant", "begin": 0, "end": 20, "every": 3}
        return {"sparsity": 0.8, "strategy": strategy, "schedule": every}

    unbroken, pruning = Net(), DynamicPruning(**settings())
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_epochs=1)
    trainer([pruning, saver, SaveAtStart(tmp_path / "step=0.ckpt")], tmp_path).fit(unbroken, loader())
    resumed, again = Net(), DynamicPruning(**settings())
    trainer([again], tmp_path).fit(resumed, loader(), ckpt_path=tmp_path / f"step={step}.ckpt", weights_only=True)
    assert again.pruner.updates == pruning.pruner.updates
    assert same(dict(resumed.state_dict()), dict(unbroken.state_dict()))
    assert same(again.state_dict(), pruning.state_dict())


class Clipped(Net):
    """Notes the dense gradients, and the norm that the clipping finds."""

    def __init__(self) -> None:
        super().__init__()
        self.dense: list[dict[str, torch.Tensor]] = []
        self.norms: list[float] = []
        self.stepped: list[dict[str, torch.Tensor]] = []

    def on_after_backward(self):
        self.dense.append({name: p.grad.clone() for name, p in self.named_parameters()})

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.norms.append(math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in self.parameters())))
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self.stepped.append({name: p.grad.clone() for name, p in self.named_parameters()})


class Masks(L.Callback):
    def __init__(self, pruning: DynamicPruning) -> None:
        self.pruning, self.seen, self.weights = pruning, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append({name: mask.clone() for name, mask in self.pruning.masks.items()})
        self.weights.append({n: p.detach().clone() for n, p in pl_module.named_parameters()})


def test_clipping_by_norm_leaves_the_pruned_out_and_rigl_still_grows_by_the_dense_gradients(tmp_path):
    model = Clipped()
    pruning = DynamicPruning(
        sparsity=0.7,
        strategy={"name": "rigl", "exchange": 0.3},
        threshold={"name": "topk", "scope": "global"},
        schedule={"name": "constant", "begin": 2, "end": 20, "every": 3},
    )
    watch = Masks(pruning)
    trainer([watch, pruning], tmp_path, gradient_clip_val=0.05).fit(model, loader())
    watch.seen.append({name: mask.clone() for name, mask in pruning.masks.items()})
    smaller = updates = 0
    for step, dense in enumerate(model.dense):
        masks, names = watch.seen[step], list(watch.seen[step])
        squares = {
            n: float(((g.double() * masks[n] if n in masks else g.double()) ** 2).sum()) for n, g in dense.items()
        }
        assert model.norms[step] == pytest.approx(math.sqrt(sum(squares.values())), rel=1e-6)
        smaller += model.norms[step] < 0.95 * math.sqrt(sum(float((g.double() ** 2).sum()) for g in dense.values()))
        clipped = math.sqrt(sum(float((g.double() ** 2).sum()) for g in model.stepped[step].values()))
        assert clipped == pytest.approx(min(0.05, model.norms[step]), rel=1e-3)
        if (step + 1 - 2) % 3 or step + 1 <= 2 or step + 1 > 20:
            continue
        updates += 1
        old, new = (torch.cat([m[n].view(-1) for n in names]) for m in (masks, watch.seen[step + 1]))
        gradient = torch.cat([dense[n].abs().view(-1) for n in names])
        grown = new & ~old
        exchanged = round(0.3 * int(old.sum()))
        dropped_out_of_the_living = int((old & ~new).sum())
        assert 0 < int(grown.sum()) == dropped_out_of_the_living <= exchanged
        # Whatever stayed out had a smaller dense gradient than all that came.
        assert float(gradient[grown].min()) >= float(gradient[~old & ~new].max())
    assert updates == 6
    assert smaller > 15


def test_clipping_leaves_the_gradients_of_latent_weights_alone(tmp_path):
    model = Clipped()
    pruning = DynamicPruning(sparsity=0.7, strategy="surgery", schedule=EACH_FOUR)
    trainer([pruning], tmp_path, gradient_clip_val=0.05).fit(model, loader())
    for dense, norm in zip(model.dense, model.norms, strict=True):
        assert norm == pytest.approx(math.sqrt(sum(float((g.double() ** 2).sum()) for g in dense.values())), rel=1e-6)


def test_masks_and_values_are_restored_after_a_kill_and_a_resume(tmp_path):
    def settings() -> dict[str, Any]:
        return {"sparsity": 0.9, "schedule": EACH_FOUR, "journal": {"remember_values": True}}

    class Early(L.Callback):
        """Notes the masks after step 10."""

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 10:
                self.masks = {name: mask.clone() for name, mask in killed.masks.items()}

    killed, early = DynamicPruning(**settings()), Early()
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_epochs=1)
    trainer([killed, early, saver], tmp_path, max_epochs=3).fit(Net(), loader())
    model, again = Net(), DynamicPruning(**settings())
    trainer([again], tmp_path).fit(model, loader(), ckpt_path=tmp_path / "step=16.ckpt", weights_only=True)
    now = {name: mask.clone() for name, mask in again.masks.items()}
    cut = again.pruner.journal.values_at(10)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    again.pruner.restore(10)
    assert sum(int(m.sum()) for m in early.masks.values()) == 256 - 58
    for name, mask in early.masks.items():
        assert torch.equal(again.masks[name], mask)
        assert torch.equal(model.get_parameter(name)[now[name] & mask], weights[name][now[name] & mask])
        index, values = cut[name]
        assert torch.equal(index, (mask & ~now[name]).view(-1).nonzero().view(-1))
        assert torch.equal(model.get_parameter(name).detach().view(-1)[index], values)
        assert values.all()


def test_a_guard_goes_on_where_a_resumed_run_stood(tmp_path):
    def settings() -> dict[str, Any]:
        guard = AccuracyGuard(max_drop=0.03, patience=1)
        return {"sparsity": 0.8, "schedule": {"name": "linear", "begin": 10, "end": 40, "every": 2}, "guard": guard}

    def length() -> dict[str, Any]:
        return {"max_epochs": 6}

    unbroken, pruning = Net(), DynamicPruning(**settings())
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_epochs=1)
    trainer([pruning, saver], tmp_path, **length()).fit(unbroken, loader(), loader())
    # Falls by 0.02 an epoch: inside at step 16, outside at 24 and 32.
    notes = pruning.pruner.journal.notes
    assert notes[0][0] == 24
    assert "pruning pauses" in notes[0][1]
    assert any("back to the masks of step 16" in text for _, text in notes)
    assert pruning.guard.holds
    for step in (16, 24, 32):
        resumed, again = Net(), DynamicPruning(**settings())
        trainer([again], tmp_path, **length()).fit(
            resumed, loader(), loader(), ckpt_path=tmp_path / f"step={step}.ckpt", weights_only=True
        )
        assert again.pruner.journal.notes == notes
        assert again.guard.state_dict() == pruning.guard.state_dict()
        assert same(dict(resumed.state_dict()), dict(unbroken.state_dict()))


def test_ac_dc_alternates_in_epochs(tmp_path):
    pruning = DynamicPruning(
        sparsity=0.8, schedule={"name": "acdc", "begin": "1 epoch", "end": "5 epochs", "every": "1 epoch"}
    )
    model = Net()
    trainer([pruning], tmp_path, max_epochs=6).fit(model, loader())
    # Zeros that the first forward pass of each epoch saw; what came back starts at zero and is gone from it a step on.
    assert model.zeros[8::8] == [205, 205, 205, 205, 205]
    assert [model.zeros[8 * epoch + 2] for epoch in range(6)] == [0, 205, 0, 205, 0, 205]
