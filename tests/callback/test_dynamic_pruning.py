"""The callback in a Lightning Trainer, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_dynprune import DynamicPruning
from tests.conformance import parts
from tests.conformance.loop import same
from tests.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*is down to min_kept"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


class Net(L.LightningModule):
    """A plain user module."""

    def __init__(self, lr: float = 1e-2):
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Dropout(0.0), nn.Linear(40, 5))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=1e-2)


def loader(n: int = 128, batch_size: int = 16) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 20, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :5].argmax(1)), batch_size=batch_size)


def net(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net()


def zeros(model: nn.Module) -> int:
    return sum(int((p == 0).sum()) for name, p in model.named_parameters() if name.endswith("weight"))


def test_sparsity_alone_prunes_to_the_connection_and_leaves_nothing_but_zeros(tmp_path):
    model, pruning = net(), DynamicPruning(sparsity=0.9)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    keys = list(model.state_dict())
    run = trainer([pruning], tmp_path, accumulate_grad_batches=2)
    run.fit(model, loader(), loader())
    assert zeros(model) == 900
    assert pruning.sparsity == pruning.target_sparsity == pruning.scheduled_sparsity == 0.9
    assert set(pruning.masks) == set(pruning.layer_sparsity) == {"net.0.weight", "net.3.weight"}
    assert sum(int((~mask).sum()) for mask in pruning.masks.values()) == 900
    assert list(model.state_dict()) == keys
    for name, module in model.named_modules():
        assert {a for a in vars(module) if not a.startswith("_")} <= attributes[name]
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
    assert not any(o._optimizer_step_post_hooks or o._optimizer_step_pre_hooks for o in run.optimizers)


def test_the_clock_counts_optimizer_steps_not_batches(tmp_path):
    pruning = DynamicPruning(sparsity=0.5)
    trainer([pruning], tmp_path, accumulate_grad_batches=4).fit(net(), loader())
    assert pruning.pruner.clock.step == 8
    assert pruning.pruner.schedule.span.end == 6
    assert pruning.pruner.clock.epoch == 4


class Watch(L.Callback):
    """Notes the sparsity at validation and at the end of every batch."""

    def __init__(self, pruning: DynamicPruning) -> None:
        self.pruning, self.validated, self.batches = pruning, [], []

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validated.append(self.pruning.sparsity)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(self.pruning.sparsity)


def test_updates_on_epoch_events_come_after_the_last_batch_and_before_validation(tmp_path):
    pruning = DynamicPruning(
        schedule={"name": "linear", "final": 0.8, "begin": "1 epoch", "end": "3 epochs", "every": "1 epoch"}
    )
    watch = Watch(pruning)
    trainer([pruning, watch], tmp_path).fit(net(), loader(), loader())
    assert watch.validated == pytest.approx([0.0, 0.4, 0.8, 0.8])
    assert watch.batches == pytest.approx([0.0] * 15 + [0.4] * 8 + [0.8] * 9)


def test_updates_on_batch_events_come_every_so_many_steps(tmp_path):
    pruning = DynamicPruning(
        schedule={"name": "linear", "final": 0.8, "begin": "4 steps", "end": "20 steps", "every": "8 steps"}
    )
    watch = Watch(pruning)
    trainer([pruning, watch], tmp_path).fit(net(), loader())
    assert watch.batches == pytest.approx([0.0] * 11 + [0.4] * 8 + [0.8] * 13)


@pytest.mark.parametrize("strategy", parts.STRATEGIES)
@pytest.mark.parametrize("threshold", parts.THRESHOLDS)
@pytest.mark.filterwarnings("ignore:.*is short of the target")
def test_a_resumed_fit_is_the_unbroken_fit_to_the_bit(strategy, threshold, tmp_path):
    def settings() -> dict[str, Any]:
        return {
            "sparsity": 0.8,
            "strategy": parts.STRATEGIES[strategy],
            "threshold": parts.THRESHOLDS[threshold],
            "schedule": {"name": "cubic", "begin": 3, "end": 28, "every": 3},
        }

    unbroken, pruning = net(), DynamicPruning(**settings())
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    first = trainer([pruning, saver], tmp_path)
    first.fit(unbroken, loader())
    resumed, again = net(seed=5), DynamicPruning(**settings())
    second = trainer([again], tmp_path)
    second.fit(resumed, loader(), ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True)
    assert again.pruner.clock.step == 32
    assert same(dict(resumed.state_dict()), dict(unbroken.state_dict()))
    assert same(again.state_dict(), pruning.state_dict())
    assert same(second.optimizers[0].state_dict(), first.optimizers[0].state_dict())


def test_a_checkpoint_loads_strictly_into_the_plain_model_where_this_package_is_not(tmp_path):
    model = net()
    run = trainer([DynamicPruning(sparsity=0.9)], tmp_path)
    run.fit(model, loader())
    run.save_checkpoint(tmp_path / "model.ckpt")
    script = tmp_path / "plain.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.modules["lightning_dynprune"] = None  # any import of it raises
            import torch
            from torch import nn
            checkpoint = torch.load({str(tmp_path / "model.ckpt")!r}, weights_only=True)
            net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Dropout(0.0), nn.Linear(40, 5))
            weights = {{k.removeprefix("net."): v for k, v in checkpoint["state_dict"].items()}}
            print(net.load_state_dict(weights, strict=True), sum(int((p == 0).sum()) for p in net.parameters()))
            """
        )
    )
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "<All keys matched successfully> 900"


def test_masks_travel_as_bits(tmp_path):
    run = trainer([DynamicPruning(sparsity=0.9)], tmp_path)
    run.fit(net(), loader())
    run.save_checkpoint(tmp_path / "model.ckpt")
    state = torch.load(tmp_path / "model.ckpt", weights_only=True)["callbacks"]["DynamicPruning"]
    assert {name: m.numel() for name, m in state["masks"].items()} == {"net.0.weight": 100, "net.3.weight": 25}


def test_values_are_logged_beside_their_target_and_validation_beside_its_sparsity(tmp_path):
    logger = CSVLogger(tmp_path)
    pruning = DynamicPruning(sparsity=0.8, schedule={"name": "linear", "begin": 8, "end": 24, "every": 8})
    run = trainer([pruning], tmp_path, logger=logger, log_every_n_steps=1)
    run.fit(net(), loader(), loader())
    rows = [
        dict(zip(lines[0].split(","), line.split(","), strict=True))
        for lines in [(Path(logger.log_dir) / "metrics.csv").read_text().splitlines()]
        for line in lines[1:]
    ]
    steps = {int(r["step"]): r for r in rows if r["dynprune/sparsity"]}
    assert float(steps[6]["dynprune/sparsity"]) == 0.0
    for step, expected in [(7, 0.0), (15, 0.4), (16, 0.4), (23, 0.8), (31, 0.8)]:
        assert float(steps[step]["dynprune/sparsity"]) == pytest.approx(expected)
        assert float(steps[step]["dynprune/target_sparsity"]) == pytest.approx(expected)
    assert float(steps[15]["dynprune/churn"]) == pytest.approx(0.4)
    assert float(steps[23]["dynprune/compression"]) == pytest.approx(1045 / 245)
    layers = [float(steps[23][f"dynprune/layer/net.{i}.weight"]) for i in (0, 3)]
    assert (layers[0] * 800 + layers[1] * 200) / 1000 == pytest.approx(0.8)
    validated = [r for r in rows if r["val_acc"]]
    assert [float(r["dynprune/val_sparsity"]) for r in validated] == pytest.approx([0.0, 0.4, 0.8, 0.8])
    assert "dynprune/sparsity" in run.progress_bar_metrics
    assert "dynprune/target_sparsity" in run.progress_bar_metrics


class Gan(L.LightningModule):
    """Two optimizers, stepped by hand."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 20), nn.Linear(20, 20)

    def training_step(self, batch, batch_idx):
        for optimizer, layer in zip(self.optimizers(), (self.a, self.b), strict=True):
            optimizer.zero_grad()
            self.manual_backward(layer(batch[0]).square().mean())
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(self.a.parameters()), torch.optim.SGD(self.b.parameters(), lr=0.1, momentum=0.9)]


@pytest.mark.parametrize("strategy", ["magnitude", "taylor"])
def test_several_optimizers_with_manual_optimization_tick_once_a_batch(strategy, tmp_path):
    model, pruning = Gan(), DynamicPruning(sparsity=0.75, strategy=strategy)
    trainer([pruning], tmp_path).fit(model, loader())
    assert pruning.pruner.clock.step == 32
    assert zeros(model) == 600


@pytest.mark.parametrize("automatic", [True, False])
def test_a_strategy_observes_each_step_once_before_the_weights_move(automatic, tmp_path):
    class One(L.LightningModule):
        automatic_optimization = automatic

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 1, bias=False)
            self.fc.weight.data = torch.tensor([[2.0, -3.0]])

        def training_step(self, batch, batch_idx):
            loss = self.fc(torch.tensor([[1.0, 4.0]])).sum()
            if automatic:
                return loss
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            return self.optimizers().step()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    pruning = DynamicPruning(
        sparsity=0.5, strategy={"name": "taylor", "decay": 0.5}, schedule={"name": "one_shot", "begin": 2}
    )
    trainer([pruning], tmp_path, max_epochs=1, limit_train_batches=2).fit(One(), loader())
    # Gradients are 1 and 4; the weights are 2 and -3, then 1 and -7: averages of squares with decay a half.
    first, second = [0.5 * 2.0**2, 0.5 * 12.0**2], [1.0**2, 28.0**2]
    expected = [0.5 * a + 0.5 * b for a, b in zip(first, second, strict=True)]
    assert pruning.pruner.targets[0].state["sensitivity"].tolist() == [expected]


@pytest.mark.parametrize("automatic", [True, False])
def test_a_strategy_observes_what_gradient_accumulation_adds_up(automatic, tmp_path):
    class Two(L.LightningModule):
        automatic_optimization = automatic

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 1, bias=False)
            self.fc.weight.data = torch.tensor([[2.0, -3.0]])

        def training_step(self, batch, batch_idx):
            loss = self.fc(torch.tensor([[1.0, 4.0], [5.0, 8.0]][batch_idx])).sum()
            if automatic:
                return loss
            self.manual_backward(loss / 2)
            return self.optimizers().step() if batch_idx else None

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    pruning = DynamicPruning(
        sparsity=0.5, strategy={"name": "taylor", "decay": 0.0}, schedule={"name": "one_shot", "begin": 1}
    )
    accumulated = {"accumulate_grad_batches": 2} if automatic else {}
    trainer([pruning], tmp_path, max_epochs=1, limit_train_batches=2, **accumulated).fit(Two(), loader())
    # Gradients of 1 and 5, and of 4 and 8: their means are 3 and 6.
    assert pruning.pruner.targets[0].state["sensitivity"].tolist() == [[(2.0 * 3) ** 2, (3.0 * 6) ** 2]]
    assert pruning.pruner.clock.step == 1


@pytest.mark.parametrize("strategy", ["taylor", "movement"])
def test_an_update_before_an_optimizer_has_had_its_turn_is_refused_by_name(strategy, tmp_path):
    at_once = {"name": "one_shot", "begin": 0}
    with pytest.raises(RuntimeError, match=r"there was none yet of b\.weight; update after a step of the optimizer"):
        trainer([DynamicPruning(sparsity=0.75, strategy=strategy, schedule=at_once)], tmp_path).fit(Gan(), loader())


def test_two_callbacks_share_a_model_by_name(tmp_path):
    model = net()
    callbacks = [
        DynamicPruning(sparsity=0.9, targets="net.0.*", name="body"),
        DynamicPruning(sparsity=0.5, targets="net.3.*", name="head"),
    ]
    trainer(callbacks, tmp_path).fit(model, loader())
    assert [c.sparsity for c in callbacks] == [0.9, 0.5]
    both = [DynamicPruning(sparsity=0.9, name="a"), DynamicPruning(sparsity=0.5, name="b")]
    with pytest.raises(ValueError, match=r"net\.0\.weight is pruned by another pruner already"):
        trainer(both, tmp_path).fit(net(), loader())


def test_a_second_fit_keeps_what_the_first_one_pruned(tmp_path):
    model, pruning = net(), DynamicPruning(sparsity=0.5)
    trainer([pruning], tmp_path).fit(model, loader())
    mask = {name: m.clone() for name, m in pruning.masks.items()}
    run = trainer([pruning], tmp_path)
    run.fit(model, loader())
    assert pruning.pruner.clock.step == 32
    assert same(pruning.masks, mask)
    run.fit_loop.max_epochs = 6
    run.fit(model, loader())
    assert pruning.pruner.clock.step == 48
    assert zeros(model) == 500


def test_the_callback_lets_go_after_an_exception(tmp_path):
    class Breaks(Net):
        def training_step(self, batch, batch_idx):
            if batch_idx == 3:
                raise OSError("the disk is on fire")
            return super().training_step(batch, batch_idx)

    model, pruning = Breaks(), DynamicPruning(sparsity=0.5)
    run = trainer([pruning], tmp_path)
    with pytest.raises(OSError, match="on fire"):
        run.fit(model, loader())
    assert not any(o._optimizer_step_post_hooks for o in run.optimizers)
    model.__class__ = Net
    trainer([DynamicPruning(sparsity=0.5)], tmp_path).fit(model, loader())
    assert zeros(model) == 500


def test_another_callback_may_prune_the_model_after_a_fit(tmp_path):
    model = net()
    trainer([DynamicPruning(sparsity=0.5)], tmp_path).fit(model, loader())
    trainer([DynamicPruning(sparsity=0.75)], tmp_path).fit(model, loader())
    assert zeros(model) == 750


class Unsized(IterableDataset):
    """Six batches, which nobody can count beforehand."""

    def __iter__(self):
        for _ in range(6):
            yield torch.randn(4, 20), torch.randint(5, (4,))


@pytest.mark.parametrize(("sized", "limit"), [(True, 1.0), (True, 0.5), (True, 3), (False, 1.0), (False, 3)])
@pytest.mark.parametrize("check", [1.0, 2])
def test_an_epoch_ends_once_however_long_it_is(limit, sized, check, tmp_path):
    data = loader() if sized else DataLoader(Unsized(), batch_size=None)
    pruning = DynamicPruning(
        schedule={"name": "linear", "final": 0.8, "begin": "1 epoch", "end": "3 epochs", "every": "1 epoch"}
    )
    trainer([pruning], tmp_path, limit_train_batches=limit, val_check_interval=check, max_epochs=4).fit(
        net(), data, loader()
    )
    assert pruning.pruner.clock.epoch == 4
    assert pruning.sparsity == pytest.approx(0.8)


def test_a_target_that_was_missed_is_said_at_the_end(tmp_path):
    pruning = DynamicPruning(sparsity=0.9, threshold={"name": "fixed", "theta": 1e-9})
    with pytest.warns(UserWarning, match="is short of the target 0.9000: threshold Fixed and min_kept pruned no more"):
        trainer([pruning], tmp_path).fit(net(), loader())

    class Stops(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = True

    with pytest.warns(UserWarning, match="is short of the target 0.9000: training ended at step 1, before"):
        trainer([DynamicPruning(sparsity=0.9), Stops()], tmp_path, min_epochs=0).fit(net(), loader(batch_size=64))


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(20), torch.tensor(1)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"sparsity": 1.2}, ValueError, r"sparsity=1.2 is not accepted; give a number in \[0, 1\)"),
        ({"sparsity": "much"}, TypeError, "sparsity='much' is not a number"),
        ({}, ValueError, "sparsity=None: no final sparsity is given"),
        ({"sparsity": 0.5, "strategy": "nope"}, ValueError, "strategy='nope' is unknown; known: magnitude"),
        ({"sparsity": 0.5, "threshold": "nope"}, ValueError, "threshold='nope' is unknown; known:"),
        ({"sparsity": 0.5, "schedule": "nope"}, ValueError, "schedule='nope' is unknown; known:"),
        (
            {"sparsity": 0.5, "pattern": "nope"},
            ValueError,
            "pattern='nope' is unknown; known: block, channel, element, head, n_m",
        ),
    ],
)
def test_a_bad_setting_is_refused_where_it_is_written(settings, error, message):
    with pytest.raises(error, match=message):
        DynamicPruning(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": "encoder.*"}, "matches no parameter"),
        ({"schedule": {"name": "cubic", "end": 1000}}, "lies after training, which ends at 32 steps"),
        ({"schedule": {"name": "cubic", "begin": 20, "end": 10}}, "lies before begin=20"),
        ({"targets": {"*": 0.5}}, "which only threshold topk with scope='layer' uses"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_the_first_batch(settings, message, tmp_path):
    class NoBatch(Net):
        def training_step(self, batch, batch_idx):
            pytest.fail("a batch was trained")

        validation_step = training_step

    with pytest.raises(ValueError, match=message):
        trainer([DynamicPruning(sparsity=0.5, **settings)], tmp_path).fit(NoBatch(), loader(), loader())


def test_shares_of_an_endless_training_are_refused_and_steps_are_not(tmp_path):
    endless = DataLoader(Endless(), batch_size=4)
    with pytest.raises(ValueError, match="is a share of training, whose length is not known; give begin in steps"):
        trainer([DynamicPruning(sparsity=0.5)], tmp_path, max_epochs=-1).fit(net(), endless)
    in_steps = {"name": "cubic", "begin": 1, "end": 8, "every": 1}
    without_length = DataLoader(Unsized(), batch_size=None)
    with pytest.raises(ValueError, match="is a share of training, whose length is not known"):
        trainer([DynamicPruning(sparsity=0.5)], tmp_path).fit(net(), without_length)
    pruning = DynamicPruning(sparsity=0.5, schedule=in_steps)
    trainer([pruning], tmp_path).fit(net(), without_length)
    assert pruning.sparsity == 0.5
    pruning = DynamicPruning(sparsity=0.5, schedule=in_steps)
    trainer([pruning], tmp_path, max_epochs=-1, max_steps=10).fit(net(), endless)
    assert pruning.sparsity == 0.5


def test_a_checkpoint_of_other_targets_is_refused(tmp_path):
    run = trainer([DynamicPruning(sparsity=0.5, targets="net.0.*")], tmp_path)
    run.fit(net(), loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"made for other targets; net\.3\.weight is no target there"):
        trainer([DynamicPruning(sparsity=0.5)], tmp_path, max_epochs=6).fit(
            net(), loader(), ckpt_path=tmp_path / "a.ckpt"
        )


class Half(Net):
    """Only its first layer is trained."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.net[0].parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"strategy": "magnitude", "targets": "net.3.weight"},
            r"no optimizer of this Trainer holds a target \(net.3.weight",
        ),
        ({"targets": "net.3.weight"}, "strategy=Taylor watches every step, and no optimizer trains net.3.weight;"),
        # What is never seen to matter would be the first to go.
        ({}, "no optimizer trains net.3.weight; exclude what is not trained, or give strategy='magnitude', which"),
        ({"strategy": "movement"}, "strategy=Movement watches every step, and no optimizer trains net.3.weight"),
    ],
)
def test_targets_that_nothing_trains_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer([DynamicPruning(sparsity=0.5, **settings)], tmp_path).fit(Half(), loader())


def test_by_default_a_layer_that_is_frozen_or_excluded_is_left_alone(tmp_path):
    excluded, frozen = Half(), net()
    trainer([DynamicPruning(sparsity=0.5, exclude="net.3.*")], tmp_path).fit(excluded, loader())
    frozen.net[3].requires_grad_(False)
    with pytest.warns(UserWarning, match=r"frozen, so not pruned: net\.3\.weight"):
        trainer([DynamicPruning(sparsity=0.5)], tmp_path).fit(frozen, loader())
    for model in (excluded, frozen):
        assert int((model.net[0].weight == 0).sum()) == 400
        assert model.net[3].weight.all()


def test_nan_weights_stop_training_by_name(tmp_path):
    class Diverges(Net):
        def on_train_batch_start(self, batch, batch_idx):
            if self.global_step == 12:
                with torch.no_grad():
                    self.net[3].weight[0, 0] = float("nan")

    with pytest.raises(RuntimeError, match=r"weights of net\.(0|3)\.weight are not finite"):
        trainer([DynamicPruning(sparsity=0.5)], tmp_path).fit(Diverges(), loader())
