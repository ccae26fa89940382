"""One training, left in the middle and gone on with: what every row of the compatibility matrix is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_dynprune import DynamicPruning
from lightning_dynprune.app.data.batches import TensorBatches
from lightning_dynprune.masks import unpack_bits
from tests.conformance.loop import same
from tests.training import trainer

# One strategy whose pruned weights are gone, and one whose latent weights train on behind the mask.
STRATEGIES = ("taylor", "straight_through")
SPARSITY = 0.75
EPOCHS, BATCHES = 4, 6
SCHEDULE = {"name": "cubic", "begin": 2, "end": 20, "every": 3}


def network() -> nn.Module:
    """Return two linear layers and a norm, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))


def data(batch_size: int = 8, batches: int = BATCHES) -> TensorBatches:
    """Return the same batches in the same order each epoch, which go on in mid-epoch."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batches * batch_size, 8, generator=generator)
    return TensorBatches(x, x[:, :4].argmax(1), batch_size, seed=None)


class Module(L.LightningModule):
    """A network trained by cross-entropy with Adam, whose momentum and decay would bring pruned weights back."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = network() if net is None else net
        self.batches = data()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x).float(), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def train_dataloader(self) -> TensorBatches:
        return self.batches

    def val_dataloader(self) -> TensorBatches:
        return data(batches=2)

    def test_dataloader(self) -> TensorBatches:
        return data(batches=2)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2, weight_decay=1e-2)

    # So that a run goes on in mid-epoch with the batch it would have had.
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["batches"] = self.batches.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches.load_state_dict(checkpoint["batches"])


class Watch(L.Callback):
    """Holds a run to its promises at the end of every batch.

    Pruned entries are +0.0, the latent values of living ones too, and nothing is NaN or infinite.
    """

    def __init__(self, pruning: DynamicPruning) -> None:
        self.pruning = pruning
        self.batches = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.batches += 1
        assert_zeros(dict(pl_module.named_parameters()), self.pruning.masks)
        assert self.pruning.pruner is not None
        for target in self.pruning.pruner.targets:
            latent = target.state.get("latent", torch.zeros_like(target.parameter))
            assert not latent[self.pruning.masks[target.name]].any(), f"{target.name} lives in two places"
            assert torch.isfinite(latent).all(), f"latent weights of {target.name} are not finite"
            assert torch.isfinite(target.parameter).all(), f"{target.name} is not finite"

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.state.fn == "fit":
            assert_zeros(dict(pl_module.named_parameters()), self.pruning.masks)


def assert_zeros(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Assert that what is pruned is +0.0."""
    for name, mask in masks.items():
        pruned = weights[name].detach()[~mask]
        assert torch.equal(pruned, torch.zeros_like(pruned)), f"{name} is not zero where it is pruned"
        assert not torch.signbit(pruned).any(), f"{name} holds -0.0"


def saved_sparsity(path: Path) -> float:
    """Return how sparse a checkpoint's masks are, and assert that its weights have the zeros in place."""
    saved = torch.load(path, weights_only=True)
    weights, packed = saved["state_dict"], saved["callbacks"]["DynamicPruning"]["masks"]
    masks = {n: unpack_bits(bits, weights[n].numel(), n).view_as(weights[n]) for n, bits in packed.items()}
    assert_zeros(weights, masks)
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def pruning(strategy: str, **settings: Any) -> DynamicPruning:
    """Return the callback of these runs."""
    return DynamicPruning(**{"sparsity": SPARSITY, "strategy": strategy, "schedule": SCHEDULE, **settings})


def fit(
    folder: Path,
    strategy: str,
    make: Callable[[], L.LightningModule] = Module,
    *,
    callbacks: Callable[[], Sequence[L.Callback]] = tuple,
    callbacks_first: bool = False,
    settings: dict[str, Any] | None = None,
    resume: Path | None = None,
    save_at: int | Mapping[str, Any] | None = None,
    **trainer_settings: Any,
) -> tuple[L.LightningModule, DynamicPruning, L.Trainer]:
    """Train once, from the beginning or from a checkpoint, and hold the run to its promises."""
    module, ours = make(), pruning(strategy, **(settings or {}))
    watch = Watch(ours)
    # What belongs to one Trainer, such as a plugin, is given by a function that makes it.
    trainer_settings = {k: value() if callable(value) else value for k, value in trainer_settings.items()}
    saving = save_at if isinstance(save_at, Mapping) else {"every_n_train_steps": save_at}
    saver = ModelCheckpoint(folder, filename="middle-{step}", save_top_k=-1, **saving)
    both = [[ours, watch], list(callbacks())]
    order = [callback for some in (reversed(both) if callbacks_first else both) for callback in some]
    run = trainer([*order, *([saver] if save_at else [])], folder, **{"max_epochs": EPOCHS, **trainer_settings})
    torch.manual_seed(7)
    run.fit(module, ckpt_path=resume)
    assert watch.batches, "nothing was trained"
    bare = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    assert_zeros(bare.state_dict(), ours.masks)
    return module, ours, run


def holds(
    folder: Path, strategy: str, make: Callable[[], L.LightningModule] = Module, *, save_at: Any = 10, **settings: Any
) -> tuple[L.LightningModule, DynamicPruning, L.Trainer]:
    """Train; train again from a checkpoint in the middle; assert that both are the same to the bit, and exact.

    Args:
        folder: where checkpoints go.
        strategy: of the pruning.
        make: returns the module anew, always with the same weights.
        save_at: optimizer steps between checkpoints, or settings of ModelCheckpoint; the run goes on from the first.
        settings: as :func:`fit` takes them.

    Returns:
        The unbroken run's module, callback and Trainer.
    """
    module, ours, run = fit(folder, strategy, make, save_at=save_at, **settings)
    checkpoints = sorted(folder.glob("middle-*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
    assert all(saved_sparsity(path) <= max(SPARSITY, ours.sparsity) for path in checkpoints)
    resumed, theirs, _ = fit(folder / "resumed", strategy, make, resume=checkpoints[0], **settings)
    assert same(resumed.state_dict(), module.state_dict()), "the resumed run has other weights"
    assert same(theirs.state_dict(), ours.state_dict()), "the resumed run has another pruning state"
    assert ours.pruner is not None
    assert abs(ours.sparsity - SPARSITY) * ours.pruner.masks.total <= ours.pruner.unit
    return module, ours, run
