"""The Lightning callback: passes events to the pruner and logs its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from lightning_dynprune.callback.averages import AverageMasker
from lightning_dynprune.callback.best_checkpoint import warn_of_best_while_pruning
from lightning_dynprune.callback.callback_conflicts import check_model_pruning, check_trainer
from lightning_dynprune.callback.distillation import Distillation, Distiller
from lightning_dynprune.callback.evaluated import EvaluatedWeights, evaluated_weights
from lightning_dynprune.callback.example_input import example_input_of, input_of_batch
from lightning_dynprune.callback.fit_horizon import fit_horizon
from lightning_dynprune.callback.resume import ResumeState, loading_together
from lightning_dynprune.callback.shortfall import warn_at_end
from lightning_dynprune.callback.slim_during_fit import SlimDuringFit
from lightning_dynprune.callback.sparsity_logger import SparsityLogger
from lightning_dynprune.callback.step_watcher import StepWatcher
from lightning_dynprune.callback.validation_guard import (
    begin_guard,
    check_guard,
    journal_for_guard,
    judge_validation,
    load_with_guard,
)
from lightning_dynprune.callback.width_rounding import WidthRounding
from lightning_dynprune.callback.worker_results import (
    WorkerMessage,
    WorkerResult,
    listener_id,
    returns_results,
    send_to_main_process,
)
from lightning_dynprune.distributed import Ranks, check_same_settings
from lightning_dynprune.engine import AccuracyGuard, Pruner, Settings, describe, html_table, progress_text
from lightning_dynprune.patterns import Pattern
from lightning_dynprune.schedules import Schedule
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import Selector, Targets, frozen_targets
from lightning_dynprune.thresholds import Threshold

# Stages in which the weights are those of any checkpoint, which need not fit the masks of the last fit.
EVALUATION = ("validate", "test", "predict")


class DynamicPruning(Callback):
    """Prunes a network while a Trainer trains it.

    With ``sparsity`` alone it prunes the connections of lowest Taylor importance (``taylor``: weight x gradient), over
    all layers at once, along a cubic schedule over the middle half of training. After ``fit`` the model holds exact
    zeros and nothing else of this package. The Trainer's checkpoints hold what an exact resume needs; their weights
    load into the plain model without this package.

    Args:
        sparsity: share of connections to end at, in [0, 1); None if the schedule or the targets give it.
        strategy: scores connections: a registered name, a mapping (``name`` and settings) or an instance.
        threshold: decides the cut from the scores, likewise; by default the strategy's own, and a mapping without a
            ``name`` changes its settings.
        schedule: the steps of the updates and the sparsity at each, likewise.
        pattern: the unit that is kept or pruned together, likewise.
        targets: parameters to prune; by default the weights of Linear, convolutions and attention projections. A glob
            on parameter names, a module type, a sequence of those, or an ordered mapping glob -> settings
            (``sparsity``, ``min_kept``), of which the first match wins.
        exclude: globs and types never pruned.
        min_kept: connections that every target keeps, at least.
        reconstruct: refit kept weights to the layer's output at each cut, on the inputs of that step's batch.
        rewind: optimizer steps after which the model is copied, to be restored at every later update; None: never.
        journal: record every update: True, False or the settings of :class:`~lightning_dynprune.journal.Journal`.
        guard: compares a validated metric with the dense network's, and pauses the pruning or restores earlier masks if
            it falls too far; the journal then remembers the values that are cut.
        distill: adds the distance to a teacher's outputs to the loss, see
            :class:`~lightning_dynprune.callback.Distillation`.
        slim: take pruned units out of the model: "end", after training, for pattern channel or head; "update", at every
            update, for pattern channel, so that memory and time of a step fall. With several processes both mean the
            end. The outputs on the example input are compared before and after; where they would change, a warning
            says so and the model stays as it is. A module built anew takes the weights of checkpoints from before a
            slimming, not of the slim model.
        seed: of random strategies.
        example_input: input of the model, for patterns that trace it; by default the module's ``example_input_array``,
            else the input in the first batch.
        name: distinguishes two callbacks of one Trainer, in checkpoints and logs.

    Raises:
        TypeError: a setting of the wrong type.
        ValueError: a setting that cannot work; what depends on the model is checked before the first batch.

    Attributes:
        pruner: prunes in the running or the last fit; None before the first. After a fit by ``ddp_spawn`` or
            ``ddp_fork`` it is None in the main process, which knows the masks and sparsities of the workers.
        guard: as given.
        name: as given.

    Example:
        >>> DynamicPruning(sparsity=0.9).target_sparsity
        0.9

    Logs after every update ``dynprune/sparsity``, ``dynprune/target_sparsity`` (what the schedule asks for),
    ``dynprune/churn``, ``dynprune/compression`` (all parameters over those that are not zero) and
    ``dynprune/layer/<name>``; at each validation ``dynprune/val_sparsity``, the sparsity that the validated metrics
    were measured at; and ``dynprune/skipped_steps``, the count so far, when a gradient scaler has skipped a step whose
    gradients were not finite.

    ``test``, ``validate`` and ``predict`` evaluate the weights they are given, which may be those of an earlier
    checkpoint. Where they are not those that the fit ended with, ``sparsity`` and ``layer_sparsity`` are recounted from
    the zeros in them, until the next fit or evaluation; ``masks`` and the saved state stay those of the last fit.

    Weights averaged by ``StochasticWeightAveraging`` or ``WeightAveraging`` (EMA) are zero where the model is pruned at
    that moment: in validation, in checkpoints and at the end. An average includes weights from before the last update,
    so let it begin once the pruning has ended, by default after three quarters of training.
    """

    def __init__(
        self,
        sparsity: float | None = None,
        strategy: str | Strategy | Mapping[str, Any] = "taylor",
        threshold: str | Threshold | Mapping[str, Any] | None = None,
        schedule: str | Schedule | Mapping[str, Any] | None = None,
        pattern: str | Pattern | Mapping[str, Any] = "element",
        targets: Targets = None,
        exclude: Selector | Sequence[Selector] = (),
        *,
        min_kept: int = 1,
        reconstruct: bool = False,
        rewind: int | None = None,
        journal: bool | Mapping[str, Any] = True,
        guard: AccuracyGuard | None = None,
        distill: Distillation | None = None,
        slim: str | None = None,
        seed: int = 0,
        example_input: Any = None,
        name: str | None = None,
    ) -> None:
        check_guard(guard)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name={name!r} is not accepted; give a text or None")
        self._settings = Settings.build(
            sparsity=sparsity,
            strategy=strategy,
            threshold=threshold,
            schedule=schedule,
            pattern=pattern,
            targets=targets,
            exclude=exclude,
            min_kept=min_kept,
            reconstruct=reconstruct,
            rewind=rewind,
            journal=journal_for_guard(journal, guard),
            seed=seed,
        )
        self._slimming = SlimDuringFit(slim, self._settings.pattern, guard, rewind)
        self.guard = guard
        self.name = name
        self._example_input = example_input
        self.pruner: Pruner | None = None
        self._stage: str | None = None  # "starting" until the pruner of a fit has its state, then "fit"
        self._max_epochs: int | None = None
        self._steps_per_epoch: int | None = None
        self._evaluated: EvaluatedWeights | None = None
        self._resume = ResumeState()
        self._steps, self._averages = StepWatcher(), AverageMasker()
        self._logger = SparsityLogger(name)
        self._rounding, self._distiller = WidthRounding(), Distiller(distill)
        self._listener_id = listener_id(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._listener_id = listener_id(self, self._listener_id)

    def __repr__(self) -> str:
        return describe("DynamicPruning", self._settings, self._state_text())

    def _repr_html_(self) -> str:
        return html_table("DynamicPruning", self._settings, self._state_text(), self.connections, self.layer_sparsity)

    def _state_text(self) -> str:
        """Return in words what has been pruned."""
        if self._evaluated is not None:
            return f"{self.sparsity:.2%} zeros in the weights evaluated last"
        if not self.connections:
            return "no fit yet"
        updates = None if self.pruner is None else self.pruner.updates
        return progress_text(self.sparsity, updates, self.connections)

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return "DynamicPruning" if self.name is None else f"DynamicPruning/{self.name}"

    @property
    def slim(self) -> str | None:
        """When pruned units are taken out of the model: "end", "update" or None."""
        return self._slimming.when

    @property
    def sparsity(self) -> float:
        """Share of connections pruned now, or zero in the weights evaluated last, over the targets; 0 before both."""
        known = self._evaluated or self.pruner or self._resume.worker_result
        return 0.0 if known is None else known.sparsity

    @property
    def target_sparsity(self) -> float | None:
        """Share of connections to end at; None if it depends on the targets and no model is known yet."""
        known = self.pruner or self._resume.worker_result
        return self._settings.final_sparsity if known is None else known.target_sparsity

    @property
    def scheduled_sparsity(self) -> float:
        """Share of connections that the schedule asked for at the last update; 0 before training."""
        known = self.pruner or self._resume.worker_result
        return 0.0 if known is None else known.scheduled_sparsity

    @property
    def masks(self) -> dict[str, Tensor]:
        """The mask of every target in the fit, by name: bool, shaped and sharded like the target, True = kept."""
        if self.pruner is None:
            return {} if self._resume.worker_result is None else dict(self._resume.worker_result.masks)
        masks = zip(self.pruner.targets, self.pruner.masks.tensors, strict=True)
        return {t.name: mask if t.shard is None else t.shard.as_dtensor(mask) for t, mask in masks}

    @property
    def connections(self) -> dict[str, int]:
        """Number of connections of every target, by name, including those that were slimmed away."""
        if self.pruner is None:
            return {} if self._resume.worker_result is None else dict(self._resume.worker_result.connections)
        return self.pruner.connections

    @property
    def layer_sparsity(self) -> dict[str, float]:
        """Share of connections pruned now, or zero in the weights evaluated last, by target."""
        known = self._evaluated or self.pruner or self._resume.worker_result
        return {} if known is None else known.layer_sparsity

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the length of training; let weights of a slimmed model be loaded into one that was not slimmed."""
        self._stage, self._max_epochs = ("starting" if stage == "fit" else stage), trainer.max_epochs
        self._evaluated = None
        if stage == "fit":
            self._slimming.setup(pl_module)
            self._distiller.setup(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the Trainer, build the pruner, load its state and attach it to the optimizers."""
        ranks = Ranks(device=pl_module.device)
        with ranks.raise_together():
            self._check(trainer, pl_module)
        others = {"name": self.name, "slim": self._slimming.when, "guard": self.guard}
        check_same_settings(ranks, {**others, "distill": self._distiller.settings})
        earlier = self._build(trainer, pl_module)
        result = self._resume.worker_result
        with loading_together(self._running()):
            beginning = self._resume.begin(trainer, self._running(), earlier, self._load)
            if self.guard is not None:
                begin_guard(self.guard, beginning, None if result is None else result.state)
        warn_of_best_while_pruning(trainer, self._running(), self._steps_per_epoch)
        self._attach(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Recount the sparsity of weights that are validated outside a fit."""
        self._count_evaluated(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Recount the sparsity of the weights that are tested."""
        self._count_evaluated(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Recount the sparsity of the weights that predict."""
        self._count_evaluated(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the update that a schedule has before the first step, unless it needs gradients or inputs of a batch.

        Raises:
            ValueError: the training continues from a checkpoint that is damaged, or holds no pruning state.
        """
        with self._running().ranks.raise_together():
            self._resume.validate_checkpoint(trainer, self.state_key)
        if not self._running().waits_for_data:
            self._running().start()
        self._averages.mask(trainer, self._running())

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log with the next batch, as Lightning drops logged values when an epoch ends."""
        self._logger.log_again()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Capture the inputs of the targets' layers if the update after this step reads them."""
        if (pruner := self._running()).needs_coupling:
            with pruner.ranks.raise_together():
                pruner.couple(input_of_batch(batch))
        self._slimming.prepare(pruner, pl_module, self._example_input, batch)
        if pruner.needs_layer_inputs and pruner.updates_next(trainer.is_last_batch):
            pruner.start_capture()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Leave gradients of pruned connections out of a norm; note that a step follows unless a scaler skips it."""
        if trainer.gradient_clip_val and trainer.gradient_clip_algorithm in (None, "norm"):
            self._running().mask_gradients(trainer.is_last_batch)
        self._steps.expect_step(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update if that is due at the end of an epoch, and log the last update."""
        was_skipped = self._steps.end_batch()
        with self._running().hold_errors():
            self._steps.check_optimizers(trainer)
            self._running().check_attached()
        self._end_epoch(trainer)
        self._averages.mask(trainer, self._running())
        self._log(trainer, pl_module, was_skipped)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the sparsity that this validation's metrics were measured at."""
        is_known = self.pruner is not None or self._evaluated is not None
        if is_known and not (trainer.sanity_checking or trainer.barebones):
            self._logger.log_validation(pl_module, self.sparsity)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the guard judge the validated metric."""
        guard = self.guard if self._steps.is_attached and not trainer.sanity_checking else None
        if guard is not None and judge_validation(guard, trainer, self._running()):
            self._averages.mask(trainer, self._running())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Slim the model if that is asked for, and warn if the target sparsity was missed."""
        self._running().raise_held_errors()
        self._slimming.at_end(self._running())
        warn_at_end(self._running(), self.guard)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Slim the model after a fit that was resumed with no step left, in which training neither begins nor ends."""
        self._slimming.at_end_without_steps(self._running(), trainer, pl_module, self._example_input)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove all hooks; the zeros stay in the model, and the masks stay readable on this callback."""
        self._detach()
        if stage == "fit" and self.pruner is not None and returns_results(trainer):
            message = WorkerMessage(self._listener_id, self.state_dict(), self.pruner.target_sparsity)
            send_to_main_process(trainer, message)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove all hooks; the zeros stay in the model."""
        self._detach()

    def on_worker_result(self, result: WorkerResult) -> None:
        """Store the result of worker processes of ``ddp_spawn`` or ``ddp_fork``; their pruner ended with them."""
        self.pruner, self._resume.worker_result = None, result

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the run for a checkpoint: tensors and plain values."""
        # A checkpoint may be written before this fit has a pruner, as a learning rate finder does to restore it later.
        if self.pruner is None or self._stage == "starting":
            return self._resume.waiting_state
        guarded = {} if self.guard is None else {"guard": self.guard.state_dict()}
        added = {**guarded, **self._rounding.state(), **self._distiller.state()}
        return self.pruner.state_dict({"skipped": self._steps.skipped_steps, **added})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a checkpoint; it is validated against the model as soon as there is one."""
        # In an evaluation the weights are tested as they were saved, and the masks stay those of the last fit.
        if state_dict and self._stage not in EVALUATION:
            is_running = self.pruner is not None and self._steps.is_attached
            load = self._load if is_running else self._resume.keep
            load(state_dict)

    def _running(self) -> Pruner:
        """Return the pruner of the fit, or raise if there is none."""
        if self.pruner is None:
            raise RuntimeError("DynamicPruning: on_fit_start has not run; train through Trainer.fit")
        return self.pruner

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what needs no pruner: the Trainer's strategy and the other callbacks."""
        self._slimming.begin(trainer)
        check_trainer(trainer, frozen_targets(pl_module, self._settings.targets, self._settings.exclude), self.slim)

    def _build(self, trainer: Trainer, pl_module: LightningModule) -> Pruner | None:
        """Build the pruner, which finds the targets and checks all settings; return that of the fit before."""
        earlier = self.pruner
        if earlier is not None:
            earlier.close()
        horizon = fit_horizon(trainer, self._max_epochs)
        settings = self._rounding.resolve(self._settings, pl_module, self._example_input, self._resume.loaded)
        self.pruner = Pruner(
            pl_module,
            trainer.optimizers,
            **settings.arguments(),
            example_input=example_input_of(pl_module, self._example_input),
            total_steps=horizon.steps,
            steps_per_epoch=horizon.steps_per_epoch,
            epochs=horizon.epochs,
            trial_run=horizon.trial_run,
        )
        self._steps_per_epoch = horizon.steps_per_epoch
        if not self.pruner.coverage.is_low:
            rank_zero_info(f"dynprune: {self.pruner.coverage.text}")
        check_model_pruning(trainer, ((t.name, t.parameter) for t in self.pruner.targets))
        return earlier

    def _attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the optimizers' steps, and start the metrics."""
        self._stage = "fit"
        self._distiller.begin(trainer, pl_module)
        self._steps.attach(trainer, self._running(), self, partial(self._tick, trainer))
        self._averages.reset()
        self._logger.begin(self._running(), pl_module.device)

    def _count_evaluated(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the zeros of the weights that are evaluated, unless a fit is running."""
        if self._stage in EVALUATION and not self._steps.is_attached:
            self._evaluated = evaluated_weights(trainer, pl_module, self.pruner, self._settings)

    def _tick(self, trainer: Trainer) -> None:
        """Count an optimizer step; after an update slim the model and mask the averages."""
        pruner = self._running()
        self._slimming.after_update(pruner, pruner.tick())
        pruner.stop_capture()
        self._averages.mask(trainer, pruner)

    def _end_epoch(self, trainer: Trainer) -> None:
        """Count an epoch after its last batch, and slim the model after the update if one was due."""
        if trainer.is_last_batch:
            self._slimming.after_update(self._running(), self._running().end_epoch())

    def _load(self, state: dict[str, Any]) -> None:
        """Load the state of a checkpoint into the guard, the pruner and the count of skipped steps."""
        self._distiller.validate(state)
        load_with_guard(self.guard, state, self._running())
        self._resume.is_resumed, self._steps.skipped_steps = True, state.get("skipped", 0)

    def _log(self, trainer: Trainer, pl_module: LightningModule, was_skipped: bool) -> None:
        """Log a skipped step and a new update, unless the Trainer logs nothing."""
        if trainer.barebones:
            return
        if was_skipped:
            self._logger.log_skipped_steps(pl_module, self._steps.skipped_steps)
        if self._logger.is_due(pruner := self._running()):
            self._logger.log_update(pl_module, pruner, self.masks, self._slimming.removed_from(pl_module))

    def _detach(self) -> None:
        """Remove all hooks after a fit, and release the model; an evaluation has attached nothing."""
        stage, self._stage = self._stage, None
        if stage in EVALUATION:
            return
        self._slimming.remove_hook()
        self._distiller.end()
        self._steps.detach()
        if self.pruner is not None:
            self.pruner.close()
