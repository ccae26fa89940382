"""The Lightning callback: events in, calls of the pruner and logged values out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_dynprune.base import check_share, validate_checkpoint_file
from lightning_dynprune.callback.averages import averages_of, mask_average
from lightning_dynprune.callback.callback_conflicts import accumulation, refuse_finetuning, refuse_neighbours
from lightning_dynprune.callback.clipping import Handle, before_clipping
from lightning_dynprune.callback.metric_inputs import masks_to_count, parameters_to_count
from lightning_dynprune.callback.worker_results import Letter, Told, address, is_away, send
from lightning_dynprune.engine import AccuracyGuard, Pruner, check_no_flat_parameters, fit_to, state_for_new_fit
from lightning_dynprune.journal import Update
from lightning_dynprune.masks import optimizer_holds
from lightning_dynprune.metrics import CompressionRatio, LayerSparsity, Sparsity
from lightning_dynprune.patterns import PATTERNS, Pattern
from lightning_dynprune.schedules import Schedule, sparsity_schedule
from lightning_dynprune.strategies import STRATEGIES, Strategy, with_default
from lightning_dynprune.targets import Selector, Targets, frozen_targets
from lightning_dynprune.thresholds import THRESHOLDS, Threshold

# When the model is slimmed -> the patterns that go with it.
SLIM = {"end": ("channel", "head"), "update": ("channel",)}


class DynamicPruning(Callback):
    """Prunes a network while a Trainer trains it.

    ``sparsity`` alone prunes, over all layers at once, what the loss heeds least (``taylor``: weight x gradient), along
    a cubic schedule over the middle half of training. After ``fit`` the model holds exact zeros and nothing else of
    ours. The checkpoints of the Trainer carry what a run needs to go on exactly; their weights load into the plain
    model without this package.

    Args:
        sparsity: share of connections to end at, in [0, 1); None where the schedule or the targets give it.
        strategy: what a connection is worth: a registered name, a mapping (``name`` and settings) or an instance.
        threshold: where the cut falls, likewise; by default the strategy's own, and a mapping without a ``name``
            changes its settings.
        schedule: when to update and how sparse to be by then, likewise.
        pattern: what is kept or pruned together, likewise.
        targets: which parameters are pruned; by default the weights of Linear, convolutions and attention projections.
            A glob on parameter names, a module type, a sequence of those, or an ordered mapping glob -> settings
            (``sparsity``, ``min_kept``), of which the first match wins.
        exclude: globs and types never pruned.
        min_kept: connections that every target keeps, at least.
        reconstruct: refit the weights that stay to the layer's output at each cut, on the inputs of that step's batch.
        rewind: optimizer steps after which the model is copied, to be put back at every later update; None: never.
        journal: record every update: True, False or the settings of :class:`~lightning_dynprune.journal.Journal`.
        guard: watches a validated metric, and holds the pruning where it costs too much; the journal then remembers the
            values that are cut.
        slim: take pruned units out of the model: "end", once training has ended, for pattern channel or head;
            "update", at every update, for pattern channel, so that memory and time of a step fall. On several processes
            it is done at the end in either case. Weights that were saved before fit a module built anew, not the slim
            one.
        seed: of random strategies.
        example_input: what the model takes, for patterns that follow it through the model; by default the module's
            ``example_input_array``, else the input in the first batch.
        name: tells two callbacks of one Trainer apart, in checkpoints and logs.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting that cannot work; what depends on the model is checked before the first batch.

    Example:
        >>> DynamicPruning(sparsity=0.9).target_sparsity
        0.9

    After a fit by ``ddp_spawn`` or ``ddp_fork`` the process that started the workers knows their masks and sparsities;
    ``pruner``, which lived in them, is None there.

    Logs after every update ``dynprune/sparsity`` beside ``dynprune/target_sparsity`` (what the schedule asks for),
    ``dynprune/churn``, ``dynprune/compression`` (all parameters over those that are not zero) and
    ``dynprune/layer/<name>``; at each validation ``dynprune/val_sparsity``, the sparsity that the validated metrics
    were measured at; and ``dynprune/skipped_steps``, how many so far, where a gradient scaler skipped a step whose
    gradients were not finite.

    Weights averaged by ``StochasticWeightAveraging`` or ``WeightAveraging`` (EMA) have their zeros where the model has
    them at that moment: in validation, in checkpoints and at the end. An average reaches back to when there was more
    to prune, so let it begin once the pruning has ended, by default after three quarters of training.
    """

    def __init__(
        self,
        sparsity: float | None = None,
        strategy: str | Mapping[str, Any] | Strategy = "taylor",
        threshold: str | Mapping[str, Any] | Threshold | None = None,
        schedule: str | Mapping[str, Any] | Schedule | None = None,
        pattern: str | Mapping[str, Any] | Pattern = "element",
        targets: Targets = None,
        exclude: Selector | Sequence[Selector] = (),
        *,
        min_kept: int = 1,
        reconstruct: bool = False,
        rewind: int | None = None,
        journal: bool | Mapping[str, Any] = True,
        guard: AccuracyGuard | None = None,
        slim: str | None = None,
        seed: int = 0,
        example_input: Any = None,
        name: str | None = None,
    ) -> None:
        if guard is not None and not isinstance(guard, AccuracyGuard):
            raise TypeError(f"guard={guard!r} is not accepted; give an AccuracyGuard or None")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name={name!r} is not accepted; give a text or None")
        # Named parts are built here once, so that what needs no model to be refused is refused where it was written.
        built = STRATEGIES.build(strategy)
        schedule = with_default("schedule", schedule, built.schedule)
        self._settings: dict[str, Any] = {
            "sparsity": None if sparsity is None else check_share("sparsity", sparsity),
            "strategy": built,
            "threshold": THRESHOLDS.build(with_default("threshold", threshold, built.threshold)),
            "schedule": schedule,
            "pattern": PATTERNS.build(pattern),
            "targets": targets,
            "exclude": exclude,
            "min_kept": min_kept,
            "reconstruct": reconstruct,
            "rewind": rewind,
            "journal": journal if guard is None else _remembering(journal),
            "seed": seed,
        }
        decides = self._settings["pattern"].sets_sparsity
        if sparsity is not None or not (decides or isinstance(targets, Mapping)):
            self._settings["schedule"] = sparsity_schedule(schedule, sparsity)
        self.slim = _checked_slim(slim, self._settings["pattern"], guard, rewind)
        self.guard = guard
        self.name = name
        self._example_input = example_input
        self.pruner: Pruner | None = None
        self._loaded: dict[str, Any] | None = None
        self._clock: Optimizer | None = None
        self._stepped = False  # the clock has, and its tick waits for the others to step in the same batch
        self._handles: list[Handle] = []
        self._stage: str | None = None
        self._max_epochs: int | None = None
        self._logged = -1
        self._masked = -1
        self._goes_on = False
        self._awaits_step = False
        self._skipped = 0
        self._before: dict[nn.Parameter, int] = {}
        self._fitting: Handle | None = None
        self._logs = "dynprune/" if name is None else f"dynprune/{name}/"
        self._told: Told | None = None
        self._address = address(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._address = address(self, self._address)

    def hear(self, told: Told) -> None:
        """Take what workers of ``ddp_spawn`` or ``ddp_fork`` know at the end of a fit; their pruner ends with them."""
        self.pruner, self._told = None, told

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy keeps: settings and masks, but no hold on a Trainer that is running."""
        return {**vars(self), "_handles": [], "_fitting": None, "_clock": None}

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return "DynamicPruning" if self.name is None else f"DynamicPruning/{self.name}"

    @property
    def sparsity(self) -> float:
        """Share of connections pruned now, over the targets; 0 before training."""
        known = self.pruner or self._told
        return 0.0 if known is None else known.sparsity

    @property
    def target_sparsity(self) -> float | None:
        """Share of connections to end at; None where the targets' own sparsities decide and no model is known yet."""
        if known := self.pruner or self._told:
            return known.target_sparsity
        schedule = self._settings["schedule"]
        return schedule.final if isinstance(schedule, Schedule) else self._settings["sparsity"]

    @property
    def scheduled_sparsity(self) -> float:
        """Share of connections that the schedule asked for at the last update; 0 before training."""
        known = self.pruner or self._told
        return 0.0 if known is None else known.scheduled_sparsity

    @property
    def masks(self) -> dict[str, Tensor]:
        """The mask of every target, by name: bool, shaped and sharded like the target, True = kept."""
        if self.pruner is None:
            return {} if self._told is None else dict(self._told.masks)
        masks = zip(self.pruner.targets, self.pruner.masks.tensors, strict=True)
        return {t.name: mask if t.shard is None else t.shard.as_dtensor(mask) for t, mask in masks}

    @property
    def connections(self) -> dict[str, int]:
        """Connections of every target, by name, those that were slimmed away among them."""
        if self.pruner is None:
            return {} if self._told is None else dict(self._told.connections)
        return {t.name: whole for t, whole in zip(self.pruner.targets, self.pruner.masks.original_numel, strict=True)}

    @property
    def layer_sparsity(self) -> dict[str, float]:
        """Share of connections pruned, by target."""
        known = self.pruner or self._told
        return {} if known is None else known.layer_sparsity

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note how long to train; let the weights of a slimmed model be loaded into one that was not slimmed."""
        self._stage = "starting" if stage == "fit" else stage
        self._max_epochs = trainer.max_epochs
        if stage == "fit" and self.slim == "update":
            # What an earlier fit took out of these very parameters still counts.
            self._before = {p: self._before.get(p, p.numel()) for p in pl_module.parameters()}
            self._fitting = pl_module.register_load_state_dict_pre_hook(_fit_to_state)  # type: ignore[no-untyped-call]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the targets, check every setting and watch the optimizers' steps."""
        self._stop_fitting()
        _refuse_partitioned(trainer)
        if self.slim == "update" and trainer.world_size > 1:
            rank_zero_warn(f"slim='update': with {trainer.world_size} processes the model is slimmed at the end only")
            self.slim = "end"
        earlier = self.pruner
        if earlier is not None:
            earlier.close()
        refuse_finetuning(
            _callbacks(trainer), frozen_targets(pl_module, self._settings["targets"], self._settings["exclude"])
        )
        steps, steps_per_epoch, epochs = _horizon(trainer, self._max_epochs)
        self.pruner = pruner = Pruner(
            pl_module,
            trainer.optimizers,
            **self._settings,
            example_input=self._example(pl_module),
            total_steps=steps,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            trial_run=bool(getattr(trainer, "fast_dev_run", False)),
        )
        refuse_neighbours(_callbacks(trainer), self, ((t.name, t.parameter) for t in pruner.targets))
        self._goes_on = self._loaded is not None or earlier is not None
        if self._loaded is not None:
            self._load(self._loaded)
            self._loaded = None
        elif earlier is not None:
            if [id(t.parameter) for t in earlier.targets] == [id(t.parameter) for t in pruner.targets]:
                _carry_over(earlier.state_dict(), earlier.sparsity, pruner, going_on=trainer.global_step > 0)
        elif self._told is not None and self._told.state["shapes"] == pruner.state_dict()["shapes"]:
            _carry_over(self._told.state, self._told.sparsity, pruner, going_on=False)
        self._told = None
        self._stage = "fit"
        self._watch(trainer)
        self._logged = self._masked = -1
        self._layer_metric = LayerSparsity([t.name for t in pruner.targets]).to(pl_module.device)
        self._metric = Sparsity().to(pl_module.device)
        self._compression_metric = CompressionRatio().to(pl_module.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the update that a schedule has before the first step, unless it waits for what a batch brings.

        Raises:
            ValueError: the training goes on from a checkpoint that is damaged, or holds no pruning state.
        """
        pruner = self._running()
        self._refuse_checkpoint(trainer)
        if not pruner.waits_for_data:
            pruner.start()
        self._mask_averages(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log with the next batch; Lightning forgets what was logged when an epoch ends."""
        self._logged = -1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Watch the inputs of the targets where the update after this step reads them."""
        pruner = self._running()
        if pruner.needs_coupling:
            pruner.couple(_input_of(batch))
        if pruner.needs_layer_inputs and pruner.updates_next(trainer.is_last_batch):
            pruner.start_capture()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Leave the gradients of what is pruned out of a norm; note that a step follows, unless a scaler skips it."""
        if trainer.gradient_clip_val and trainer.gradient_clip_algorithm in (None, "norm"):
            self._running().mask_gradients(trainer.is_last_batch)
        self._awaits_step = self._awaits_step or optimizer is self._clock

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update on the event of an epoch's end, and log what the last update did."""
        pruner = self._running()
        if self._stepped:
            self._tick(trainer)
        if trainer.is_last_batch:
            self._slim(pruner.end_epoch())
        self._mask_averages(trainer)
        if self._awaits_step:
            self._awaits_step = False
            self._skipped += 1
            if not trainer.barebones:
                pl_module.log(f"{self._logs}skipped_steps", float(self._skipped), on_step=True, on_epoch=False)
        if self._logged != pruner.updates and not trainer.barebones:
            self._log(pl_module)
            self._logged = pruner.updates

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the sparsity that this validation's metrics were measured at."""
        if not (trainer.sanity_checking or trainer.barebones) and self.pruner is not None:
            # The same in all processes; where Lightning is not told to take the mean, it warns that it may differ.
            sparsity = self.pruner.sparsity
            pl_module.log(f"{self._logs}val_sparsity", sparsity, on_step=False, on_epoch=True, sync_dist=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the guard judge what was validated."""
        if self.guard is None or trainer.sanity_checking or not self._handles:
            return
        if self.guard.monitor not in trainer.callback_metrics:
            raise ValueError(
                f"guard: monitor={self.guard.monitor!r} was not logged in validation; there are "
                f"{', '.join(sorted(trainer.callback_metrics)) or 'none'}"
            )
        # Processes that judged by their own share of the data would decide differently.
        value = float(trainer.strategy.reduce(trainer.callback_metrics[self.guard.monitor], reduce_op="mean"))
        if decision := self.guard.judge(value, self._running(), _validations_left(trainer)):
            rank_zero_info(f"dynprune: {decision}")
            self._mask_averages(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Slim the model where that is asked for, and say so if the target was missed."""
        pruner = self._running()
        if self.slim == "end" and not pruner.needs_coupling:
            rank_zero_info(f"dynprune: slimmed, {_widths(pruner.slim())}")
        missing = pruner.target_sparsity - pruner.sparsity
        if missing * pruner.masks.total <= pruner.unit:
            return
        span = pruner.schedule.span
        why = (
            f"the guard held it ({pruner.journal.notes[-1][1]})"
            if self.guard is not None and pruner.paused and pruner.journal is not None and pruner.journal.notes
            else f"threshold {type(pruner.threshold).__name__} and min_kept pruned no more"
            if pruner.has_ended
            else f"training ended at step {pruner.clock.step}, before the schedule did ({span})"
        )
        warnings.warn(
            f"sparsity {pruner.sparsity:.4f} is short of the target {pruner.target_sparsity:.4f}: {why}",
            stacklevel=2,
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind but zeros; the masks stay readable on this callback."""
        self._end()
        if stage == "fit" and self.pruner is not None and is_away(trainer) and trainer.is_global_zero:
            send(trainer, Letter(self._address, self.state_dict(), self.pruner.target_sparsity))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing behind but zeros."""
        self._end()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the run: tensors and plain values."""
        # A checkpoint may be written before this fit has begun, as a learning rate finder does to come back to it.
        if self.pruner is None or self._stage == "starting":
            return self._loaded or ({} if self._told is None else self._told.state)
        guarded = {} if self.guard is None else {"guard": self.guard.state_dict()}
        return self.pruner.state_dict({"skipped": self._skipped, **guarded})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a checkpoint; it is checked against the model as soon as there is one."""
        # Where nothing is trained the weights are tested as they were saved, and the masks stay those of the last fit.
        if not state_dict or self._stage in ("validate", "test", "predict"):
            return
        if self.pruner is not None and self._handles:
            self._load(state_dict)
        else:
            self._loaded = state_dict

    def _load(self, state: dict[str, Any]) -> None:
        if self.guard is not None and "guard" in state:
            self.guard.load_state_dict(state["guard"])
        self._running().load_state_dict(state)
        self._goes_on, self._skipped = True, state.get("skipped", 0)

    def _refuse_checkpoint(self, trainer: Trainer) -> None:
        """Raise where the checkpoint that is gone on from cannot be, before any of it is trained on."""
        path = trainer.ckpt_path
        if path is None:
            return
        validate_checkpoint_file(path, "ckpt_path")
        if trainer.global_step > 0 and not self._goes_on:
            raise ValueError(
                f"ckpt_path={path} holds no pruning state under {self.state_key!r}, so its training cannot be gone on "
                "with. To prune a network that was trained without this callback, load its weights alone "
                "(load_state_dict with the 'state_dict' of the checkpoint) and fit without ckpt_path, so that the "
                "schedule spans the training that follows"
            )

    def _example(self, pl_module: LightningModule) -> Any:
        """Return an example of the module's input, on its device; None where there is none yet."""
        given = pl_module.example_input_array if self._example_input is None else self._example_input
        return None if given is None else move_data_to_device(given, pl_module.device)

    def _running(self) -> Pruner:
        if self.pruner is None:
            raise RuntimeError("DynamicPruning: on_fit_start has not run; train through Trainer.fit")
        return self.pruner

    def _watch(self, trainer: Trainer) -> None:
        """Follow the steps of every optimizer of a target, of which the first is the clock, and what is clipped."""
        pruner = self._running()
        parameters = {target.parameter for target in pruner.targets}
        ours = [optimizer for optimizer in trainer.optimizers if optimizer_holds(optimizer, parameters)]
        if not ours:
            raise ValueError(
                f"no optimizer of this Trainer holds a target ({pruner.targets[0].name}, ...); "
                "give targets that are trained"
            )
        self._let_go()
        self._stepped = False
        self._clock = ours[0]
        self._handles = [optimizer.register_step_post_hook(partial(self._on_stepped, trainer)) for optimizer in ours]

        def clipping(optimizer: Optimizer) -> None:
            """Do the same where a module clips by itself, which by hand comes before any event."""
            bare = getattr(optimizer, "optimizer", optimizer)  # by hand it is wrapped by Lightning
            if any(bare is one for one in ours):
                pruner.mask_gradients(trainer.is_last_batch, bare)

        if not trainer.gradient_clip_val:
            self._handles.append(before_clipping(trainer.precision_plugin, clipping))

    def _on_stepped(self, trainer: Trainer, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        pruner = self._running()
        self._awaits_step = self._awaits_step and optimizer is not self._clock
        # While a finder tries settings out, Lightning sets the callbacks aside: such steps are no training.
        if not any(callback is self for callback in _callbacks(trainer)):
            pruner.apply()
            return
        if optimizer is self._clock and self._stepped:
            self._tick(trainer)
        if optimizer is not self._clock or pruner.waits_for_all_optimizers:
            self._stepped = self._stepped or optimizer is self._clock
            pruner.apply()
        else:
            self._tick(trainer)

    def _tick(self, trainer: Trainer) -> None:
        pruner = self._running()
        self._stepped = False
        self._slim(pruner.tick())
        pruner.stop_capture()
        self._mask_averages(trainer)

    def _mask_averages(self, trainer: Trainer) -> None:
        """After an update, set what is pruned to zero in the averages that other callbacks keep."""
        pruner = self._running()
        if self._masked != pruner.updates:
            self._masked = pruner.updates
            for average in averages_of(_callbacks(trainer)):
                mask_average(average, pruner)

    def _slim(self, update: Update | None) -> None:
        """Take out what an update pruned, where that is asked for."""
        if self.slim == "update" and update is not None:
            self._running().slim()

    def _stop_fitting(self) -> None:
        if self._fitting is not None:
            self._fitting.remove()
            self._fitting = None

    def _end(self) -> None:
        stage, self._stage = self._stage, None
        if stage in ("validate", "test", "predict"):
            return  # the weights are those of any checkpoint, not those that the masks belong to
        self._stop_fitting()
        self._let_go()
        if self.pruner is not None:
            self.pruner.close()

    def _let_go(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _log(self, pl_module: LightningModule) -> None:
        """Log sparsities; Lightning repeats a logged value until the epoch ends, so once an update is enough."""
        pruner = self._running()
        counted = masks_to_count(pruner, self.masks)
        for metric in (self._metric, self._layer_metric):
            metric.reset()
            for masks in counted:
                metric.update(masks)
        wanted = torch.tensor(pruner.scheduled_sparsity)
        shown = {"sparsity": self._metric.compute().float(), "target_sparsity": wanted}
        others = {f"layer/{name}": value.float() for name, value in self._layer_metric.compute().items()}
        self._compression_metric.reset()
        self._compression_metric.update(parameters_to_count(pl_module, pruner))
        if taken := sum(self._before.values()) - sum(p.numel() for p in pl_module.parameters()) if self._before else 0:
            self._compression_metric.update([torch.zeros(1).expand(taken)])
        others["compression"] = self._compression_metric.compute().float()
        others["churn"] = torch.tensor(0.0 if pruner.last_update is None else pruner.last_update.churn)
        pl_module.log_dict({self._logs + k: v for k, v in shown.items()}, prog_bar=True, on_step=True, on_epoch=False)
        pl_module.log_dict({self._logs + k: v for k, v in others.items()}, on_step=True, on_epoch=False)


def _refuse_partitioned(trainer: Trainer) -> None:
    """Raise where a strategy of Lightning leaves no process a parameter that has its own shape."""
    if isinstance(trainer.model, nn.Module):
        check_no_flat_parameters(trainer.model)
    strategy = type(trainer.strategy).__name__
    if strategy in ("FSDPStrategy", "DeepSpeedStrategy"):
        raise ValueError(
            f"Trainer(strategy={strategy}) lays parameters end to end and cuts them anywhere, so that no target is "
            "left to prune; use ModelParallelStrategy with fully_shard in configure_model (FSDP2), or DDPStrategy"
        )


def _checked_slim(slim: str | None, pattern: Pattern, guard: AccuracyGuard | None, rewind: int | None) -> str | None:
    """Return the setting ``slim`` if the others go with it."""
    if slim is None:
        return None
    if not isinstance(slim, str) or slim not in SLIM:
        raise ValueError(f"slim={slim!r} is unknown; known: None, {', '.join(map(repr, SLIM))}")
    if pattern.label not in SLIM[slim]:
        raise ValueError(
            f"slim={slim!r} goes with pattern {' or '.join(SLIM[slim])}, not {pattern.label}; what other patterns left "
            "whole channels of zeros in, lightning_dynprune.deploy.slimming.removal makes smaller after training"
        )
    if rewind is not None or (slim == "update" and guard is not None):
        raise ValueError(
            f"slim={slim!r} does not go with {'rewind' if rewind is not None else 'a guard'}, which puts back what is "
            "gone by then; leave one of them out"
        )
    return slim


def _fit_to_state(module: Any, state: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
    """Give a module the smaller shapes of the weights that are being loaded into it."""
    fit_to(module, {name.removeprefix(prefix): tensor for name, tensor in state.items()})


def _widths(groups: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name} {before} -> {after}" for name, (before, after) in groups.items())


def _input_of(batch: Any) -> Any:
    """Return the input in a batch, two samples of it: the batch itself if it is a tensor or a mapping, else its first.

    Raises:
        ValueError: the batch is something else.
    """
    given = batch[0] if isinstance(batch, Sequence) and batch else batch
    if isinstance(given, (Tensor, Mapping, Sequence)):
        # The model runs many times while it is followed, so a whole batch would take its time.
        return apply_to_collection(given, Tensor, lambda tensor: tensor[:2] if tensor.dim() else tensor)
    raise ValueError(
        f"example_input=None, and a batch of type {type(batch).__name__} does not say what the model takes; give "
        "example_input, or set example_input_array on the module"
    )


def _callbacks(trainer: Any) -> list[Callback]:
    """Return the callbacks of a Trainer, which it is given where a type checker does not see it."""
    return list(trainer.callbacks)


def _horizon(trainer: Trainer, max_epochs: int | None) -> tuple[int | None, int | None, int | None]:
    """Return training's optimizer steps, those of one epoch, and its epochs; None where Lightning cannot tell.

    ``max_epochs`` is the Trainer's before other callbacks had their turn: SWA adds one in which nothing is trained.
    """
    trainer.fit_loop.max_epochs, lengthened = max_epochs, trainer.fit_loop.max_epochs
    try:
        steps = trainer.estimated_stepping_batches
    except MisconfigurationException as error:  # accumulation that changes between epochs
        warnings.warn(f"the length of training is not known: {error}", stacklevel=2)
        steps = math.inf
    finally:
        trainer.fit_loop.max_epochs = lengthened
    batches = trainer.num_training_batches
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else None
    epochs = max_epochs if max_epochs is not None and max_epochs >= 0 else None
    if (accumulates := accumulation(_callbacks(trainer))) is not None and per_epoch is not None:
        # Lightning counts as if all epochs accumulated as the first one does.
        counts = [math.ceil(batches / accumulates(epoch)) for epoch in range(max(epochs or 1, 1))]
        per_epoch = counts[0] if epochs is not None and len(set(counts)) == 1 else None
        if epochs is not None:
            steps = sum(counts) if trainer.max_steps < 0 else min(sum(counts), trainer.max_steps)
    # -1 stands for max_steps without a limit, which is all Lightning says of a loader without a length.
    known = math.isfinite(steps) and steps >= 0
    return (int(steps) if known else None), per_epoch, epochs


def _remembering(journal: bool | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the journal's settings with the values remembered, as the guard needs them."""
    if journal is False:
        raise ValueError("journal=False does not go with a guard, which brings masks back from it; give journal=True")
    return {"remember_values": True, **(journal if isinstance(journal, Mapping) else {})}


def _validations_left(trainer: Trainer) -> int | None:
    """Return how many validations come after this one; None where the length of training is not known."""
    done, ends = trainer.current_epoch + 1, []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        ends.append(trainer.max_epochs)
    if trainer.max_steps >= 0:
        ends.append(trainer.max_steps * done // trainer.global_step)
    return max((min(ends) - done) // (trainer.check_val_every_n_epoch or 1), 0) if ends else None


def _carry_over(state: dict[str, Any], sparsity: float, pruner: Pruner, going_on: bool) -> None:
    """Keep what an earlier fit pruned; go on with its clock where the Trainer goes on too."""
    if not going_on:
        state = state_for_new_fit(state, pruner.state_dict(), sparsity)
    pruner.load_state_dict(state)
