"""The callback in a Lightning Trainer, as a user runs it."""

from __future__ import annotations

import pytest
import torch

from lightning_dynprune import DynamicPruning
from tests.callback.runs import Half, Net, loader, net, zeros
from tests.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec"),
    pytest.mark.filterwarnings("ignore:.*is down to min_kept"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


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


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"sparsity": 1.2}, ValueError, r"sparsity=1.2 is not accepted; give a number in \[0, 1\)"),
        ({"sparsity": "much"}, TypeError, "sparsity='much' is not a number"),
        ({}, ValueError, "sparsity=None: no final sparsity is given"),
        ({"sparsity": 0.5, "strategy": "nope"}, ValueError, "strategy='nope' is unknown; known: fisher, magnitude"),
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
