"""Trainings in several processes that Lightning starts: ``python tests/processes/script.py CASE FOLDER``.

Every process writes down what it ended with, for the tests to compare; a case is one start of Python, so it trains
more than once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from lightning_dynprune import DynamicPruning, InputAdaptivePruning
from lightning_dynprune.app.data.batches import TensorBatches
from lightning_dynprune.distributed import is_sharded, local_part, mask_checksum
from lightning_dynprune.engine import AccuracyGuard
from tests.compatibility.runs import EPOCHS, STRATEGIES, Module, pruning
from tests.training import trainer

ROWS, BATCH = 44, 8  # of each process: five batches of eight and one of four an epoch
NEEDS_WHOLES: dict[str, dict[str, Any]] = {
    "guard": {"guard": AccuracyGuard()},
    "channel": {"pattern": "channel"},
    "reconstruct": {"reconstruct": True},
    "rewind": {"rewind": 2},
}


class Shared(Module):
    """Trains on the rows of its own process, and logs an accuracy of its own process."""

    def setup(self, stage: str) -> None:
        self.batches = self.rows(self.trainer.global_rank, self.trainer.world_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def rows(self, rank: int, size: int) -> TensorBatches:
        x = torch.randn(ROWS * size, 8, generator=torch.Generator().manual_seed(1))[rank::size]
        return TensorBatches(x, x[:, :4].argmax(1), BATCH, seed=None)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        # The mean of 0.9 and 0.5 is outside the guard's limit, and what the first process sees is not.
        falls = self.trainer.global_rank == 1 and self.trainer.current_epoch >= 1
        self.log("val_acc", 0.5 if falls else 0.9, on_epoch=True)


class Sharded(Shared):
    """Two linear layers that FSDP2 or tensor parallelism lays out over the processes."""

    def __init__(self, width: int = 25) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4)))

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        if is_sharded(self.net[0].weight):
            return
        data, tensors = self.device_mesh["data_parallel"], self.device_mesh["tensor_parallel"]
        if tensors.size() > 1:
            parallelize_module(self.net, tensors, {"0": ColwiseParallel(), "2": RowwiseParallel()})
        else:
            fully_shard(self.net[0], mesh=data)
            fully_shard(self.net, mesh=data)

    def setup(self, stage: str) -> None:
        data = self.device_mesh["data_parallel"]
        self.batches = self.rows(data.get_local_rank(), data.size())


class Report(L.Callback):
    """Holds a run to its promises at every batch, and writes down what each process ends with.

    Args:
        pruning: the callback that prunes.
        file: without a rank and an ending.
    """

    def __init__(self, pruning: DynamicPruning, file: Path) -> None:
        self.pruning, self.file = pruning, file
        self.checksums: list[list[int]] = []
        self.sparsities: list[float] = []
        self.logged: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        assert self.pruning.pruner is not None
        self.begun = {"masks": self.pruning.pruner.masks.pack(), "sparsity": self.pruning.sparsity}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        parameters = dict(pl_module.named_parameters())
        masks = {name: local_part(mask) for name, mask in self.pruning.masks.items()}
        for name, mask in masks.items():
            pruned = local_part(parameters[name]).detach()[~mask]
            assert not pruned.count_nonzero(), f"{name} is not zero where it is pruned"
            assert not torch.signbit(pruned).any(), f"{name} holds -0.0"
        self.checksums.append([mask_checksum(mask) for mask in masks.values()])
        self.sparsities.append(self.pruning.sparsity)
        self.logged.append(float(trainer.callback_metrics["dynprune/sparsity"]))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        state = {k: v.full_tensor() if is_sharded(v) else v for k, v in pl_module.state_dict().items()}
        told = {
            "state": {name: tensor.clone() for name, tensor in state.items()},
            "pruning": self.pruning.state_dict(),
            "begun": self.begun,
            "sparsity": self.pruning.sparsity,
            "layer_sparsity": self.pruning.layer_sparsity,
            "checksums": self.checksums,
            "sparsities": self.sparsities,
            "logged": self.logged,
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        }
        torch.save(told, f"{self.file}-{trainer.global_rank}.pt")


class Dies(L.Callback):
    """Kills its process in the middle of a step, as a machine that goes away would; the time is written to a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 13:
            (self.folder / "killed_at").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)


def fit(
    folder: Path,
    name: str,
    launcher: Any,
    pruned_by: str,
    make: Callable[[], L.LightningModule] = Shared,
    *,
    devices: int = 2,
    callbacks: Sequence[L.Callback] = (),
    settings: dict[str, Any] | None = None,
    again: DynamicPruning | None = None,
    resume: Path | None = None,
    save_at: int | None = None,
) -> tuple[L.LightningModule, DynamicPruning, L.Trainer]:
    """Train once; ``name`` is of the reports and of the folder of the checkpoints."""
    module, ours = make(), again or pruning(pruned_by, **(settings or {}))
    report = Report(ours, folder / name)
    saver = ModelCheckpoint(folder / name, filename="{step}", every_n_train_steps=save_at, save_top_k=-1)
    run = trainer(
        [ours, report, *callbacks, *([saver] if save_at else [])],
        folder,
        max_epochs=EPOCHS,
        strategy=launcher,
        devices=devices,
        num_sanity_val_steps=0,
    )
    torch.manual_seed(7)
    run.fit(module, ckpt_path=resume, weights_only=True if resume else None)
    return module, ours, run


def refused(folder: Path, name: str, error: type[Exception], *args: Any, **settings: Any) -> None:
    """Write down in what words a training is refused, and after how many batches."""
    module = (settings.pop("make", Shared))()
    report = Batches()
    try:
        fit(folder, name, *args, make=lambda: module, callbacks=[report], **settings)
    except error as refusal:
        (folder / f"{name}-{_rank()}.txt").write_text(f"{report.begun} batches: {refusal}")


def _rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


class Batches(L.Callback):
    """Counts the batches that are begun."""

    begun = 0

    def on_train_batch_start(self, *args: Any) -> None:
        self.begun += 1


def ddp(folder: Path) -> None:
    """Train with hard and with latent weights, each unbroken and resumed; then what processes disagree about."""
    for pruned_by in STRATEGIES:
        fit(folder, pruned_by, "ddp", pruned_by, save_at=10)
        middle = folder / pruned_by / "step=10.ckpt"
        fit(folder, f"{pruned_by}-resumed", "ddp", pruned_by, resume=middle)
    guarded = {"guard": AccuracyGuard(max_drop=0.1, patience=1), "schedule": {"begin": 8, "end": 20, "every": 3}}
    fit(folder, "guard", "ddp", "magnitude", settings=guarded)
    slimmed = {"pattern": "channel", "slim": "end", "sparsity": 0.5}
    fit(folder, "slim", "ddp", "magnitude", settings=slimmed)
    exits(folder, "frozen")
    exits(folder, "joint")
    refused(folder, "seed", ValueError, "ddp", "random", settings={"seed": _rank()})


def exits(folder: Path, how: str) -> None:
    """Fit early exits after or with a training, unbroken and resumed; write down heads and what validation logs."""
    for name, save_at, resume in [(how, 6, None), (f"{how}-resumed", None, folder / how / "step=18.ckpt")]:
        adaptive = InputAdaptivePruning(
            "early_exit", after=["net.2"], hidden=1, epochs=3, budget=0.9, fit=how, example_input=torch.zeros(2, 8)
        )
        module, _, run = fit(folder, name, "ddp", "magnitude", callbacks=[adaptive], save_at=save_at, resume=resume)
        (figures,) = run.validate(module, verbose=False)
        told = {"state": module.state_dict(), "figures": figures, "held_out": adaptive.adapted.module.held_out.count}
        torch.save(told, folder / f"exits-{name}-{_rank()}.pt")


def pools(folder: Path) -> None:
    """Train in processes that are forked and spawned; write down what the process that started them holds."""
    for name, devices, pruned_by in [("fork2", 2, "taylor"), ("fork3", 3, "straight_through"), ("spawn", 2, "taylor")]:
        # Three summands depend on their order, and so on the buckets, which DDP packs anew after the first step of a
        # run, resumed or not, unless it looks for unused parameters.
        launcher = {"fork2": "ddp_fork", "fork3": "ddp_fork_find_unused_parameters_true", "spawn": "ddp_spawn"}[name]
        module, ours, run = fit(folder, name, launcher, pruned_by, devices=devices, save_at=10)
        told = {
            "state": module.state_dict(),
            "pruning": ours.state_dict(),
            "masks": ours.masks,
            "connections": ours.connections,
            "sparsity": ours.sparsity,
            "target_sparsity": ours.target_sparsity,
            "layer_sparsity": ours.layer_sparsity,
            "logged": float(run.callback_metrics["dynprune/sparsity"]),
        }
        torch.save(told, folder / f"{name}-main.pt")
        middle = folder / name / "step=10.ckpt"
        if name != "spawn":
            fit(folder, f"{name}-resumed", launcher, pruned_by, devices=devices, resume=middle)
        if name == "fork2":
            fit(folder, f"{name}-again", launcher, pruned_by, make=lambda fitted=module: fitted, again=ours)


def model_parallel(processes: int = 2, tensor_parallel: int = 1, distributed: bool = True) -> ModelParallelStrategy:
    """Return the strategy of FSDP2, or of tensor parallelism."""
    return ModelParallelStrategy(
        data_parallel_size=processes // tensor_parallel,
        tensor_parallel_size=tensor_parallel,
        save_distributed_checkpoint=distributed,
        process_group_backend="gloo",
    )


def fsdp(folder: Path) -> None:
    """Train with parameters in parts, each run unbroken and resumed; then what is refused."""
    for pruned_by, distributed in [("taylor", True), ("taylor", False), ("straight_through", False)]:
        name = f"{pruned_by}-{'folder' if distributed else 'file'}"
        fit(folder, name, model_parallel(distributed=distributed), pruned_by, Sharded, save_at=10)
        middle = folder / name / "step=10.ckpt"
        launcher = model_parallel(distributed=distributed)
        fit(folder, f"{name}-resumed", launcher, pruned_by, Sharded, resume=middle)
    for pruned_by in STRATEGIES:
        wide = {"make": lambda: Sharded(24)}
        fit(folder, f"tensor-{pruned_by}", model_parallel(2, 2), pruned_by, save_at=10, **wide)
        middle = folder / f"tensor-{pruned_by}" / "step=10.ckpt"
        fit(folder, f"tensor-{pruned_by}-resumed", model_parallel(2, 2), pruned_by, resume=middle, **wide)
    refused(folder, "wanda", ValueError, model_parallel(), "wanda", make=Sharded)
    for name, settings in NEEDS_WHOLES.items():
        refused(folder, name, ValueError, model_parallel(), "magnitude", make=Sharded, settings=settings)
    refused(folder, "seed", ValueError, model_parallel(), "random", make=Sharded, settings={"seed": _rank()})


def others(folder: Path) -> None:
    """Go on with the checkpoints of two processes in one and in three, all of them forked from here."""
    together(1, lambda: elsewhere(folder, 1))
    together(3, lambda: elsewhere(folder, 3))


def elsewhere(folder: Path, processes: int) -> None:
    """Go on with the checkpoints of two processes in another number of them."""
    for kind in ("taylor-folder", "taylor-file", "straight_through-file"):
        launcher = model_parallel(processes, distributed="folder" in kind)
        name = f"{kind}-in-{processes}"
        middle = folder / kind / "step=10.ckpt"
        fit(folder, name, launcher, kind.split("-")[0], Sharded, devices=processes, resume=middle)


def together(processes: int, train: Callable[[], None]) -> None:
    """Call a function in forked processes, as a cluster would start them; wait for all."""
    os.environ.update(WORLD_SIZE=str(processes), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(find_free_network_port()))
    started = []
    for rank in range(processes):
        started.append(os.fork())
        if started[-1] == 0:
            os.environ["LOCAL_RANK"] = str(rank)
            try:
                train()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    statuses = [os.waitpid(process, 0)[1] for process in started]
    if any(statuses):
        sys.exit(f"one of {processes} processes failed")


def killed(folder: Path) -> None:
    """Lose a worker in the middle."""
    fit(folder, "killed", "ddp", "taylor", callbacks=[Dies(folder)], save_at=5)


def after(folder: Path) -> None:
    """Go on from the last checkpoint of the run that lost a worker; and train once without a loss."""
    last = max((folder / "killed").glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    fit(folder, "resumed", "ddp", "taylor", resume=last)
    fit(folder, "unbroken", "ddp", "taylor")


CASES = {case.__name__: case for case in (ddp, pools, fsdp, others, killed, after)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    CASES[sys.argv[1]](Path(sys.argv[2]))
