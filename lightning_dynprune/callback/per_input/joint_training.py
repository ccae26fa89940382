"""Training of a method's module together with the network, in the steps of the LightningModule."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_dynprune.adaptive import PREFIX, AdaptiveMethod, AdaptiveModule, place, split_pair
from lightning_dynprune.callback.compat import callbacks_of
from lightning_dynprune.callback.dynamic_pruning import DynamicPruning
from lightning_dynprune.callback.trainer_batches import SplitBatch
from lightning_dynprune.coupling import isolated


class JointTraining:
    """Adds the loss of a method's module to that of each training step.

    Args:
        split: returns inputs and labels of a batch; None: batches are pairs.
    """

    def __init__(self, split: SplitBatch | None) -> None:
        self.split = split
        self._wrapped: LightningModule | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_wrapped": None}

    def begin(self, method: AdaptiveMethod, module: LightningModule, network: nn.Module, example: Any) -> None:
        """Add the untrained module to the network, and its loss to ``training_step``; in ``setup``.

        Args:
            method: makes the module.
            module: is trained.
            network: the module, or the part of it that maps inputs to class scores.
            example: inputs of at least one sample.

        Raises:
            ValueError: the module optimizes by hand, or there is no example.
        """
        if not module.automatic_optimization:
            raise ValueError(
                "fit='joint' adds to the loss that training_step returns, and this module optimizes by hand; use "
                "fit='frozen'"
            )
        if example is None:
            raise ValueError(
                "fit='joint' makes its heads before the optimizer, for which it runs the network once; give "
                "example_input, or set example_input_array on the module"
            )
        with isolated(network):
            method.check(network, example)
            own = method.begin_joint(network, example)
        place(network, own)
        own.requires_grad_(True)
        self._wrap(module, network)

    def join_optimizer(self, trainer: Trainer, network: nn.Module) -> None:
        """Let the first optimizer train the module's parameters unless one does, in ``on_fit_start``."""
        known = {id(p) for each in trainer.optimizers for group in each.param_groups for p in group["params"]}
        new = [p for p in getattr(network, PREFIX).parameters() if id(p) not in known]
        # In a group that there is: a learning rate schedule has a list with one entry a group.
        trainer.optimizers[0].param_groups[0]["params"].extend(new)

    def end(self) -> None:
        """Give the LightningModule its own ``training_step`` back."""
        if self._wrapped is not None:
            vars(self._wrapped).pop("training_step", None)
            self._wrapped = None

    def _wrap(self, module: LightningModule, network: nn.Module) -> None:
        self.end()
        step = module.training_step

        @functools.wraps(step)
        def with_exits(*args: Any, **kwargs: Any) -> Any:
            batch = args[0] if args else next(iter(kwargs.values()))
            inputs, labels = split_pair(batch if self.split is None else self.split(batch), "train")
            own = getattr(network, PREFIX)
            assert isinstance(own, AdaptiveModule)
            with own.joint_step(network, inputs, labels) as loss:
                output = step(*args, **kwargs)
                return output if output is None else _plus(output, loss())

        vars(module)["training_step"] = with_exits
        self._wrapped = module


def check_joint(trainer: Trainer) -> None:
    """Raise if another callback changes the layers that heads read while they train.

    Raises:
        ValueError: naming the setting.
    """
    if any(isinstance(callback, DynamicPruning) and callback.slim == "update" for callback in callbacks_of(trainer)):
        raise ValueError(
            "fit='joint' does not go with DynamicPruning(slim='update'), which takes channels away from the heads; use "
            "slim='end', or fit='frozen'"
        )


def _plus(output: Any, loss: Tensor) -> Any:
    if isinstance(output, Mapping) and "loss" in output:
        return {**output, "loss": output["loss"] + loss}
    if isinstance(output, Tensor):
        return output + loss
    raise TypeError(f"training_step returns a {type(output).__name__}; fit='joint' needs a loss, or a dict with 'loss'")
