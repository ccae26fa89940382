"""Other surroundings than Lightning's Trainer: Fabric, a plain loop, and the other package that Lightning comes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning.fabric import Fabric
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_dynprune import DynamicPruning
from lightning_dynprune.engine import Pruner
from tests.compatibility.runs import EPOCHS, SCHEDULE, SPARSITY, STRATEGIES, Module, Watch, data, fit, network, pruning
from tests.conformance.loop import same

both_strategies = pytest.mark.parametrize("strategy", STRATEGIES)
STEPS = 24


def step(net: nn.Module, number: int) -> Tensor:
    """Return the loss of a step."""
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(8, 8, generator=generator)
    return nn.functional.cross_entropy(net(x).float(), x[:, :4].argmax(1))


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=1e-2)


def train(
    strategy: str,
    fabric: Fabric | None = None,
    wrapped: bool = True,
    save: Path | None = None,
    resume: Path | None = None,
) -> tuple[nn.Module, Pruner]:
    """Train a plain loop or Fabric's, save after step 10, or go on from there."""
    net = network()
    optimizer = adam(net)
    model, stepping = (net, optimizer) if fabric is None else fabric.setup(net, optimizer)
    given = (model, stepping) if wrapped else (net, optimizer)
    pruner = Pruner(*given, sparsity=SPARSITY, strategy=strategy, schedule=SCHEDULE, total_steps=STEPS)
    parts: dict[str, Any] = {"net": model, "optimizer": stepping}
    if resume is not None:
        if fabric is None:
            state = torch.load(resume, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(state.pop(name))
        else:
            state = fabric.load(resume, parts)
        pruner.load_state_dict(state["pruner"])
    for number in range(pruner.clock.step, STEPS):
        stepping.zero_grad()
        loss = step(model, number)
        loss.backward() if fabric is None else fabric.backward(loss)
        stepping.step()
        pruner.tick()
        for target, mask in zip(pruner.targets, pruner.masks.tensors, strict=True):
            assert torch.equal(target.parameter != 0, mask)
        if save is not None and number == 10:
            if fabric is None:
                torch.save({**{n: p.state_dict() for n, p in parts.items()}, "pruner": pruner.state_dict()}, save)
            else:
                fabric.save(save, {**parts, "pruner": pruner.state_dict()})
    assert pruner.sparsity == SPARSITY
    return net, pruner


@both_strategies
def test_a_plain_loop_is_exact_and_resumes_to_the_bit(strategy, tmp_path):
    net, pruner = train(strategy, save=tmp_path / "middle.pt")
    other, resumed = train(strategy, resume=tmp_path / "middle.pt")
    assert same(other.state_dict(), net.state_dict())
    assert same(resumed.state_dict(), pruner.state_dict())


@both_strategies
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["given what Fabric wrapped", "given what it wrapped it around"])
def test_fabric_is_exact_and_resumes_to_the_bit(wrapped, precision, strategy, tmp_path):
    def fabric():
        return Fabric(accelerator="cpu", devices=1, precision=precision)

    net, pruner = train(strategy, fabric(), wrapped, save=tmp_path / "middle.pt")
    other, resumed = train(strategy, fabric(), wrapped, resume=tmp_path / "middle.pt")
    assert same(other.state_dict(), net.state_dict())
    assert same(resumed.state_dict(), pruner.state_dict())
    assert [target.name for target in pruner.targets] == ["0.weight", "3.weight"]
    if precision == "32-true":
        alone, _ = train(strategy)
        assert same(alone.state_dict(), net.state_dict())


class OtherModule(pl.LightningModule):
    """As the module of the other rows, of the other package's class."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.batches = network(), data()

    loss, forward = Module.loss, Module.forward
    training_step, validation_step = Module.training_step, Module.validation_step
    train_dataloader, val_dataloader = Module.train_dataloader, Module.val_dataloader
    configure_optimizers = Module.configure_optimizers
    on_save_checkpoint, on_load_checkpoint = Module.on_save_checkpoint, Module.on_load_checkpoint


def other_fit(folder: Path, strategy: str, *others: pl.Callback, **where: Any) -> tuple[OtherModule, DynamicPruning]:
    module, ours = OtherModule(), pruning(strategy)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    saving = any(isinstance(callback, ModelCheckpoint) for callback in others)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[ours, Watch(ours), *others],
        default_root_dir=folder,
        enable_checkpointing=saving,
        **quiet,
    )
    torch.manual_seed(7)
    trainer.fit(module, **where)
    return module, ours


@both_strategies
def test_a_trainer_and_a_module_of_pytorch_lightning_train_as_those_of_lightning(strategy, tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="middle-{step}", every_n_train_steps=10, save_top_k=-1)
    module, ours = other_fit(tmp_path, strategy, saver)
    resumed, theirs = other_fit(tmp_path, strategy, ckpt_path=tmp_path / "middle-step=10.ckpt")
    twin, _, _ = fit(tmp_path, strategy)
    assert same(dict(resumed.state_dict()), dict(module.state_dict()))
    assert same(theirs.state_dict(), ours.state_dict())
    assert same(dict(twin.state_dict()), dict(module.state_dict()))
    assert ours.sparsity == SPARSITY
