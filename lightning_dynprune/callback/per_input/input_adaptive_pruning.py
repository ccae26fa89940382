"""The Lightning callback of per-input pruning: fits a method when a training ends, or trains it with the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_dynprune.adaptive import (
    METHODS,
    PREFIX,
    Adapted,
    AdaptiveMethod,
    AdaptiveModule,
    Deployed,
    Evaluation,
    adapt,
    check_free,
    split_pair,
    strip,
)
from lightning_dynprune.base import map_tensors, name_some
from lightning_dynprune.callback.compat import callbacks_of, flattening_strategy, is_fitting, is_worker
from lightning_dynprune.callback.dynamic_pruning import DynamicPruning
from lightning_dynprune.callback.example_input import example_input_of
from lightning_dynprune.callback.per_input.evaluation_logger import EvaluationLogger
from lightning_dynprune.callback.per_input.joint_training import JointTraining, check_joint
from lightning_dynprune.callback.per_input.module_in_checkpoint import ModuleInCheckpoint
from lightning_dynprune.callback.trainer_batches import SplitBatch, held_out_batches, training_batches
from lightning_dynprune.coupling import isolated
from lightning_dynprune.distributed import Ranks, is_sharded

Model = TypeVar("Model", bound=nn.Module)
_SAMPLES = 8  # of the first batch, on which the method is checked


class InputAdaptivePruning(Callback):
    """Makes a network compute less for easy inputs than for hard ones, after or while a Trainer trains it.

    With ``early_exit`` alone it fits small heads on the trained network when ``fit`` ends, on the Trainer's training
    data, and chooses from its validation data how confident an input must be to leave at one. The network keeps its
    parameters, names and outputs; heads and thresholds are its module ``adaptive``, which checkpoints saved from then
    on hold. ``validate`` and ``test`` log what that gives; :meth:`deploy` makes a network that saves the time.

    It goes with :class:`~lightning_dynprune.DynamicPruning` in the same Trainer, in any order: heads are fitted on the
    network as it is after all other callbacks have ended, pruned, slim or averaged.

    Args:
        method: registered name, such as ``early_exit``, a mapping (``name`` and settings) or an instance.
        network: name of the LightningModule's submodule that maps inputs to class scores; None: the module itself, by
            its ``forward``. Settings of the method name layers within it.
        example_input: inputs of at least one sample, for a method that trains with the network; by default the module's
            ``example_input_array``.
        split_batch: returns the inputs and the class indices of a batch; None: batches are pairs of them.
        name: distinguishes two callbacks of one Trainer, in checkpoints and logs.
        **settings: of the method, with ``method`` as a name.

    Raises:
        TypeError: a setting of the wrong type.
        ValueError: a setting that cannot work; what depends on the model is checked before the first step.

    Attributes:
        method: the method, with its settings.
        evaluation: figures of the last validation or test; None before.

    Example:
        >>> InputAdaptivePruning("early_exit", after=["layers.1", "layers.2"], max_drop=0.001).method.margin
        1.0

    Logs in validations outside a fit and in tests ``dynprune/adaptive/accuracy``, ``.../dense_accuracy``,
    ``.../compute_mean``, ``compute_p5`` and ``compute_p95`` (multiply-adds of an input as a share of the dense
    network's), ``.../share/<exit>`` and ``.../accuracy/<exit>``, ``.../rank_correlation`` of dense loss and compute,
    ``.../accuracy_easy`` and ``.../accuracy_hard`` (the halves of lower and of higher dense loss), and
    ``.../density/<layer>`` of methods that skip parts of layers.

    A fit that is killed while heads are fitted resumes from the checkpoint of its last epoch and fits the same heads.
    Checkpoints that a fit saved before its end hold no heads, and are tested dense, with a warning.
    """

    def __init__(
        self,
        method: str | Mapping[str, Any] | AdaptiveMethod = "early_exit",
        *,
        network: str | None = None,
        example_input: Any = None,
        split_batch: SplitBatch | None = None,
        name: str | None = None,
        **settings: Any,
    ) -> None:
        for setting, value in (("network", network), ("name", name)):
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{setting}={value!r} is not accepted; give a text or None")
        if split_batch is not None and not callable(split_batch):
            raise TypeError(f"split_batch={split_batch!r} is not accepted; give a function or None")
        if settings and not isinstance(method, str):
            raise TypeError(f"{name_some(sorted(settings))}: settings go with a method's name; put them into method")
        self.method = METHODS.build({"name": method, **settings} if isinstance(method, str) else method)
        self.network, self.name = network, name
        self._example_input, self._split = example_input, split_batch
        self._adapted: Adapted | None = None
        self._is_checked = False
        self._checkpoint = ModuleInCheckpoint()
        self._joint = JointTraining(split_batch)
        self._logger = EvaluationLogger(name, split_batch)

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the callback belongs to another model.
        return {**vars(self), "_adapted": None, "_checkpoint": ModuleInCheckpoint()}

    def __repr__(self) -> str:
        module = None if self._adapted is None else getattr(self._adapted.model, PREFIX, None)
        state = module.summary if isinstance(module, AdaptiveModule) else "not fitted yet"
        return f"InputAdaptivePruning({self.method!r}): {state}"

    @property
    def state_key(self) -> str:
        """The key of this callback in a checkpoint."""
        return "InputAdaptivePruning" if self.name is None else f"InputAdaptivePruning/{self.name}"

    @property
    def evaluation(self) -> Evaluation | None:
        """Figures of the last validation or test; None before."""
        return self._logger.evaluation

    @property
    def adapted(self) -> Adapted:
        """The network with the method's module, to call, evaluate and deploy.

        Raises:
            ValueError: no fit has ended yet, and no checkpoint with the module was evaluated.
        """
        if self._adapted is None:
            raise ValueError(
                f"{self.method.label} is not fitted yet: let trainer.fit end, or evaluate a checkpoint that holds its "
                f"module {PREFIX!r}"
            )
        return self._adapted

    def budget(self, share: float) -> InputAdaptivePruning:
        """Set the mean multiply-adds of inputs like the validation data, as a share of the dense network's.

        Args:
            share: in (0, 1]; met to 2 % on the validation data.

        Returns:
            This callback.

        Raises:
            ValueError: the share is out of range or out of reach (the message says what is reachable), or nothing is
                fitted yet.
        """
        self.adapted.budget(share)
        return self

    def deploy(self, example: Any = None, *, batches: tuple[int, ...] = (1, 32), seconds: float = 4.0) -> Deployed:
        """Return a copy for inference that runs per input at those batch sizes where that is measured to be faster.

        Args:
            example: many inputs like those in use; None: up to 256 of the validation data.
            batches: batch sizes to measure.
            seconds: approximate duration of the measurement at each batch size.

        Raises:
            ValueError: nothing is fitted yet, or a setting is out of range.
        """
        return self.adapted.deploy(example, batches=batches, seconds=seconds)

    def export(
        self,
        folder: str | Path,
        example: Any = None,
        *,
        batches: tuple[int, ...] = (1, 32),
        seconds: float = 4.0,
        precision: str = "float32",
    ) -> Deployed:
        """Write a network with early exits for ONNX Runtime, one file a stage, and return it, running there.

        Args:
            folder: that does not exist, or is empty.
            example: many inputs like those in use; None: up to 256 of the validation data.
            batches: batch sizes to measure.
            seconds: approximate duration of the measurement at each batch size.
            precision: ``float32``, or ``int8`` for weights of 8 bits, which changes scores and so some exits.

        Raises:
            ValueError: nothing is fitted yet, a setting is out of range, or the network has no such form.
            FileExistsError: the folder holds files.
            ImportError: the packages of ``lightning-dynprune[export]`` are not installed.
        """
        return self.adapted.export(folder, example, batches=batches, seconds=seconds, precision=precision)

    def strip(self, model: Model) -> Model:
        """Take the method's module out of a model, in place, and return the model as it was before.

        Args:
            model: the LightningModule that was trained, or its network.
        """
        strip(self._network_of(model) if isinstance(model, LightningModule) else model)
        return model

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the Trainer; let weights with and without the module be loaded; begin a joint training."""
        network = self._network_of(pl_module)
        check_free(network)
        self._check_alone(trainer)
        is_fit = stage == "fit"
        if is_fit:
            self._begin_fit(trainer, pl_module, network)
        self._checkpoint.begin(network, is_fit=is_fit, is_joint=self.method.is_joint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there are data to calibrate on, and let an optimizer train what trains with the network."""
        if not trainer.enable_validation:
            raise ValueError(
                f"{self.method.label} chooses its thresholds from validation data, and the Trainer has none: give "
                "val_dataloaders, define validation_step, and leave limit_val_batches above 0"
            )
        sharded = [name for name, parameter in pl_module.named_parameters() if is_sharded(parameter)]
        if sharded or (strategy := flattening_strategy(trainer)) is not None:
            what = f"{sharded[0]} is" if sharded else f"Trainer(strategy={strategy}): parameters are"
            raise ValueError(
                f"{what} sharded over processes, where each input would wait for all of them; train with DDP or in one "
                "process, or call lightning_dynprune.adaptive.adapt on the whole network after training"
            )
        if self.method.is_joint:
            self._joint.join_optimizer(trainer, self._network_of(pl_module))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Check the method on the first batch, before anything is trained."""
        if not self._is_checked:
            inputs, _ = split_pair(batch if self._split is None else self._split(batch), "train")
            few = map_tensors(lambda tensor: tensor[:_SAMPLES].clone(), inputs)
            network = self._network_of(pl_module)
            with isolated(network):
                self.method.check(network, few)
            self._is_checked = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit the method to the trained network, and choose its thresholds."""
        self._release()
        for callback in callbacks_of(trainer):
            if isinstance(callback, DynamicPruning):
                callback.on_fit_end(trainer, pl_module)  # it slims first, wherever it stands in the list
        network = self._network_of(pl_module)
        device = trainer.strategy.root_device
        pl_module.to(device)  # the Trainer has moved it to the CPU by now
        try:
            train, held_out = (read(trainer, self._split) for read in (training_batches, held_out_batches))
            self._adapted = adapt(network, self.method, train, held_out, ranks=Ranks(device=device))
        finally:
            pl_module.cpu()
        rank_zero_info(f"dynprune: {self._adapted.module.summary}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to collect what each input costs."""
        if not is_fitting(trainer):
            self._begin_evaluation(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to collect what each input costs."""
        self._begin_evaluation(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the module of a checkpoint that predicts."""
        self._begin_evaluation(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect what the inputs of a batch of the first validation loader cost."""
        if not is_fitting(trainer) and dataloader_idx == 0:
            self._logger.update(self._network_of(pl_module), batch, "validation")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect what the inputs of a batch cost."""
        self._logger.update(self._network_of(pl_module), batch, "test")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures of a validation outside a fit."""
        if not is_fitting(trainer):
            self._logger.log(pl_module, not trainer.barebones)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures of a test."""
        self._logger.log(pl_module, not trainer.barebones)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Release the LightningModule."""
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the LightningModule; the method's module stays in it."""
        self._release()

    def _begin_fit(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module) -> None:
        self._adapted, self._is_checked = None, False
        if is_worker(trainer):
            raise ValueError(
                "Trainer(strategy='ddp_spawn' or 'ddp_fork') trains in processes that end with the fit, from which "
                "weights alone return; use strategy='ddp', or call lightning_dynprune.adaptive.adapt after training"
            )
        if self.method.is_joint:
            check_joint(trainer)
            self._joint.begin(self.method, pl_module, network, example_input_of(pl_module, self._example_input))
        else:
            strip(network)  # heads of an earlier fit do not fit the weights that are trained now

    def _begin_evaluation(self, pl_module: LightningModule) -> None:
        """Take up the module that came with the weights, or that was taken out by them."""
        network = self._network_of(pl_module)
        module = getattr(network, PREFIX, None)
        if not isinstance(module, AdaptiveModule):
            self._adapted = None
        elif self._adapted is None or self._adapted.model is not network or self._adapted.module is not module:
            self._adapted = Adapted(network, None if self._adapted is None else self._adapted.example)
        self._logger.begin(network, pl_module.device)

    def _network_of(self, module: LightningModule) -> nn.Module:
        """Return the part of a LightningModule that maps inputs to class scores."""
        if self.network is not None:
            try:
                return module.get_submodule(self.network)
            except AttributeError:
                names = name_some([name for name, _ in module.named_children() if name != PREFIX])
                raise ValueError(f"network={self.network!r} names no module; {names} are there") from None
        if type(module).forward is LightningModule.forward:
            owners = [name for name, child in module.named_children() if any(True for _ in child.parameters())]
            raise ValueError(
                f"network=None runs {type(module).__name__}.forward, which is not defined; define it, or name the "
                f"submodule that maps inputs to class scores: network={(owners or ['net'])[0]!r}"
            )
        return module

    def _check_alone(self, trainer: Trainer) -> None:
        others = [each for each in callbacks_of(trainer) if isinstance(each, InputAdaptivePruning) and each is not self]
        if any(other.network == self.network for other in others):
            raise ValueError(
                f"two InputAdaptivePruning of one Trainer have network={self.network!r}, and a network has one module "
                f"{PREFIX!r}; leave one out"
            )

    def _release(self) -> None:
        self._joint.end()
        self._checkpoint.end()
