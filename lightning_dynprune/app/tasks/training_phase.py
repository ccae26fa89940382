"""One training with its final test, the same code for the dense baseline and for the pruned network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from lightning_dynprune.adaptive import PREFIX
from lightning_dynprune.app.callbacks import History, LastCheckpoint, ProgressLine
from lightning_dynprune.app.data import InMemoryImages
from lightning_dynprune.app.interrupt import StopRequest
from lightning_dynprune.app.models import Classifier
from lightning_dynprune.app.runs import RunFolder, validate_resumable, without_interpolation

if TYPE_CHECKING:
    from lightning_dynprune import DynamicPruning, InputAdaptivePruning
from lightning_dynprune.patterns import AUTO

Curve = list[tuple[int, float]]
PHASE_NAMES = {"dense": "dense control", "pruned": "pruned"}


@dataclass
class Phase:
    """Result of one training.

    Args:
        accuracy: on the test set.
        val_accuracy: on the held-out samples, at the last validation; None without a validation.
        seconds: time of the training, validation included.
        test_seconds: time of the final test.
        steps: optimizer steps.
        curves: ``sparsity`` and ``val_accuracy`` as points ``(step, value)``.
        size: number of parameters of the network before slimming.
        weights: the network's state dict, without that of per-input pruning.
        parameters: the network's parameters by name, without buffers and those of per-input pruning.
    """

    accuracy: float
    val_accuracy: float | None
    seconds: float
    test_seconds: float
    steps: int
    curves: dict[str, Curve]
    size: int
    weights: dict[str, Tensor]
    parameters: dict[str, Tensor]


def new_classifier(cfg: DictConfig) -> Classifier:
    """Return the untrained network in its LightningModule, with the same weights for the same seed."""
    L.seed_everything(cfg.seed, verbose=False)
    return Classifier(
        network=instantiate(cfg.model),
        classes=cfg.data.classes,
        optimizer=instantiate(cfg.optimizer),
        lr_schedule=cfg.lr_schedule,
        lr_hold=cfg.lr_hold,
        log_every_n_steps=cfg.trainer.get("log_every_n_steps", 50),
    )


def train_phase(
    name: str,
    cfg: DictConfig,
    data: InMemoryImages,
    folder: RunFolder,
    stop: StopRequest,
    pruning: DynamicPruning | None = None,
    adaptive: InputAdaptivePruning | None = None,
) -> Phase:
    """Train and test a network, continuing from its checkpoint if the run is resumed and has one.

    Args:
        name: ``dense`` or ``pruned``.
        cfg: the run's settings.
        data: the image set.
        folder: folder for checkpoints and logs.
        stop: set by Ctrl-C.
        pruning: the pruning callback; None trains without pruning.
        adaptive: the callback of per-input pruning; None: every input computes the whole network.
    """
    module = new_classifier(cfg)
    size = sum(parameter.numel() for parameter in module.network.parameters())
    history = History(None if pruning is None else lambda: pruning.sparsity)
    path = folder.checkpoint(name)
    checkpoint = LastCheckpoint(path, cfg.checkpoint.every_n_steps, folder, stop)
    callbacks: list[L.Callback] = [history, checkpoint]
    if pruning is not None:
        callbacks.insert(0, pruning)
        if measures_widths(cfg):
            module.example_input_array = data.train_dataloader().images[: data.batch_size]
    if adaptive is not None:
        callbacks.append(adaptive)
    trainer = new_trainer(name, cfg, folder, callbacks)
    resumed = path if folder.resuming and path.exists() else None
    if resumed is not None:
        # Lightning writes no state that is empty.
        keys = [callback.state_key for callback in callbacks if callback.state_dict()]
        validate_resumable(resumed, trainer.fit_loop.state_dict(), keys, type(data).__qualname__)
    trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
    began = time.perf_counter()
    (tested,) = trainer.test(module, datamodule=data, verbose=False)
    return Phase(
        accuracy=tested["test_acc"],
        val_accuracy=history.accuracy_points[-1][1] if history.accuracy_points else None,
        seconds=history.seconds,
        test_seconds=time.perf_counter() - began,
        steps=trainer.global_step,
        curves=history.curves,
        size=size,
        weights=_without_adaptive(module.network.state_dict()),
        parameters=_without_adaptive(dict(module.network.named_parameters())),
    )


def measures_widths(cfg: DictConfig) -> bool:
    """Return whether widths are rounded to a multiple that is measured when training begins."""
    return bool(cfg.pattern.get("round_to") == AUTO)


def _without_adaptive(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{PREFIX}.")}


def new_trainer(name: str, cfg: DictConfig, folder: RunFolder, callbacks: list[L.Callback]) -> L.Trainer:
    """Return the Trainer of a training, with its logger and, on a terminal, a progress bar."""
    if cfg.progress and Console().is_terminal:
        callbacks = [*callbacks, ProgressLine(PHASE_NAMES[name])]
    logger: Any = False
    if cfg.logger.get("_target_"):
        logger = instantiate(cfg.logger, save_dir=without_interpolation(str(folder.path / "logs")), name=name)
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        callbacks=callbacks,
        logger=logger,
        default_root_dir=without_interpolation(str(folder.path)),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    return trainer
