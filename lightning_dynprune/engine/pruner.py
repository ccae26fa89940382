"""The pruner: finds the targets of a model, updates their masks while it trains, and resumes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from lightning_dynprune.base import check_flag, check_share
from lightning_dynprune.distributed import Ranks, check_same_settings
from lightning_dynprune.engine.attachment import add_owner, remove_owner
from lightning_dynprune.engine.coupled import CoupledMasks
from lightning_dynprune.engine.gradients import GradientFeed
from lightning_dynprune.engine.overview import describe, html_table, progress_text
from lightning_dynprune.engine.plan import Plan
from lightning_dynprune.engine.run import PruningRun
from lightning_dynprune.engine.settings import Settings
from lightning_dynprune.engine.slimming import check_slim, slim_run
from lightning_dynprune.engine.state import load_run, save_run
from lightning_dynprune.engine.updates import UpdateRequest, restore_masks, update_run
from lightning_dynprune.journal import Update
from lightning_dynprune.patterns import CoupledPattern, Pattern
from lightning_dynprune.schedules import Clock, Horizon, Schedule, settings_at
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import Selector, Targets, coverage
from lightning_dynprune.thresholds import Threshold


class Pruner:
    """Prunes a model while a plain PyTorch loop trains it.

    Call :meth:`tick` after every optimizer step, and :meth:`end_epoch` after the last step of an epoch where updates
    are placed on epochs. Parameters are never wrapped or renamed: after each tick pruned entries are exactly +0.0.
    With ``sparsity`` alone it prunes, over all targets at once, the connections of lowest Taylor importance
    (``taylor``: weight x gradient).

    Args:
        model: the network; a compiled or data-parallel one, or one set up by Lightning Fabric, is unwrapped.
        optimizer: the optimizer or optimizers that train it; their slots are cleared at pruned entries. Needed by
            strategies that watch every step, such as ``taylor``, and not by ``magnitude``.
        sparsity: share of connections to end at, in [0, 1); None where the schedule or the targets give it.
        strategy: scores connections: a registered name, a mapping (``name`` and settings) or an instance.
        threshold: decides the cut, likewise; by default the strategy's own, and a mapping without a ``name``
            changes its settings.
        schedule: when to update and how sparse to be by then, likewise.
        pattern: the unit that is kept or pruned together, likewise.
        targets: which parameters are pruned; see :func:`~lightning_dynprune.targets.find_targets`.
        exclude: globs and types never pruned.
        min_kept: connections that every target keeps, at least.
        reconstruct: refit the kept weights to the layer's output at each cut, see
            :class:`~lightning_dynprune.calibration.reconstruction.Hessians`; needs :meth:`calibrate` before an update.
        rewind: optimizer steps after which the model is copied; every later update restores the copy. None: never.
        journal: record every update, see :class:`~lightning_dynprune.journal.Journal`: True, False or its settings.
        seed: of random strategies.
        example_input: an input of the model, for patterns that trace it through the model: a tensor, a tuple of
            arguments or a mapping of keywords. It may also be given later, to :meth:`couple`.
        total_steps: optimizer steps of the whole training, for moments given as a share of it.
        steps_per_epoch: optimizer steps of an epoch, for moments given in epochs.
        epochs: epochs of the whole training.
        process_group: the processes that train this model together, whose masks are one; by default all of
            ``torch.distributed``, where it is initialised. A group of one prunes on its own.
        trial_run: this is a short trial of a longer training; a schedule that ends later is shortened to it.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting that cannot work; a parameter that another pruner prunes already, or that FSDP1 has
            flattened.

    Attributes:
        targets: the parameters that are pruned.
        masks: their masks.
        coverage: the share of the model's parameters that the targets hold, which warns where it is below a half.
        strategy: scores connections.
        threshold: decides the cut.
        pattern: the unit.
        schedule: of the sparsity.
        clock: optimizer steps and epochs so far.
        journal: the record of all updates; None where it is off.

    Example:
        >>> net = nn.Linear(10, 10)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> pruner = Pruner(net, optimizer, sparsity=0.9, total_steps=4)
        >>> for _ in range(4):
        ...     optimizer.zero_grad()
        ...     net(torch.randn(8, 10)).square().mean().backward()
        ...     optimizer.step()
        ...     _ = pruner.tick()
        >>> pruner.sparsity, int((net.weight == 0).sum())
        (0.9, 90)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        sparsity: float | None = None,
        strategy: str | Strategy | Mapping[str, Any] = "taylor",
        threshold: str | Threshold | Mapping[str, Any] | None = None,
        schedule: str | Schedule | Mapping[str, Any] | None = None,
        pattern: str | Pattern | Mapping[str, Any] = "element",
        targets: Targets = None,
        exclude: Selector | Sequence[Selector] = (),
        min_kept: int = 1,
        reconstruct: bool = False,
        rewind: int | None = None,
        journal: bool | Mapping[str, Any] | None = True,
        seed: int = 0,
        example_input: Any = None,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        epochs: int | None = None,
        process_group: dist.ProcessGroup | None = None,
        trial_run: bool = False,
    ) -> None:
        parameter = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
        ranks = Ranks(process_group, "cpu" if parameter is None else parameter.device)
        with ranks.raise_together():
            horizon = Horizon(total_steps, steps_per_epoch, epochs, trial_run)
            settings = Settings.build(
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
                journal=journal,
                seed=seed,
            )
        lengths = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch, "epochs": epochs}
        check_same_settings(ranks, {**settings.arguments(), **lengths})
        with ranks.raise_together():
            plan = Plan.of(settings, model, optimizer, horizon)
        self._total_steps = total_steps
        self._attach(PruningRun.build(plan, ranks), example_input)

    def _attach(self, run: PruningRun, example_input: Any) -> None:
        """Couple the units if that is possible now, and watch the optimizers' steps."""
        plan = run.plan
        self._run = run
        self.model, self.targets, self.optimizers = plan.model, plan.targets, plan.optimizers
        self.coverage = coverage(plan.model, plan.targets)
        self.strategy, self.threshold = plan.strategy, plan.threshold
        self.pattern, self.schedule = plan.pattern, plan.schedule
        self.ranks, self.masks, self.journal = run.ranks, run.masks, run.journal
        self.clock = run.progress.clock
        if isinstance(plan.pattern, CoupledPattern) and (example_input is not None or not plan.pattern.needs_example):
            with run.ranks.raise_together():
                run.couple(example_input)
        self._feed = GradientFeed(run, self.start)
        add_owner(self)
        if self.coverage.is_low and run.ranks.rank == 0:
            warnings.warn(self.coverage.text, stacklevel=3)

    def __repr__(self) -> str:
        return describe("Pruner", self._run.plan.settings, progress_text(self.sparsity, self.updates, self.connections))

    def _repr_html_(self) -> str:
        state = progress_text(self.sparsity, self.updates, self.connections)
        return html_table("Pruner", self._run.plan.settings, state, self.connections, self.layer_sparsity)

    @property
    def sparsity(self) -> float:
        """Share of connections pruned, over the targets."""
        return self.masks.sparsity

    @property
    def target_sparsity(self) -> float:
        """Share of connections to end at."""
        return self.schedule.final

    @property
    def scheduled_sparsity(self) -> float:
        """Share of connections that the schedule asked for at the last update."""
        return self._run.progress.scheduled_sparsity

    @property
    def connections(self) -> dict[str, int]:
        """Number of connections of every target, by name, including those that were slimmed away."""
        return {t.name: n for t, n in zip(self.targets, self.masks.original_numel, strict=True)}

    @property
    def layer_sparsity(self) -> dict[str, float]:
        """Share of connections pruned, by target."""
        return {
            t.name: (whole - kept) / whole if whole else 0.0
            for t, kept, whole in zip(self.targets, self.masks.kept, self.masks.original_numel, strict=True)
        }

    @property
    def updates(self) -> int:
        """Number of updates of the masks so far."""
        return self._run.progress.updates

    @property
    def last_update(self) -> Update | None:
        """The last update; None before the first."""
        return self._run.progress.last_update

    @property
    def paused(self) -> bool:
        """Whether the schedule stands still; may be set."""
        return self._run.progress.paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._run.progress.paused = paused

    @property
    def schedule_clock(self) -> Clock:
        """The clock that the schedule is read at, which stands still while :attr:`paused`."""
        return self._run.progress.schedule_clock

    @property
    def has_ended(self) -> bool:
        """Whether the schedule's last update is done."""
        return self._run.progress.has_ended

    @property
    def units(self) -> CoupledMasks | None:
        """The units that are coupled over several targets; None if the pattern has none, or before :meth:`couple`."""
        return self._run.units if isinstance(self._run.units, CoupledMasks) else None

    @property
    def unit(self) -> int:
        """Connections of the largest unit; the sparsity reached may differ from the scheduled one by one unit."""
        return self._run.units.largest

    @property
    def waits_for_data(self) -> bool:
        """Whether an update needs a batch first: for gradients, layer inputs or an example input."""
        return self.strategy.needs_gradients or self.needs_layer_inputs or self.needs_coupling

    @property
    def waits_for_all_optimizers(self) -> bool:
        """Whether an update waits until each of several optimizers has stepped, as it reads the gradients of all."""
        return self._feed.waits_for_all

    @property
    def needs_layer_inputs(self) -> bool:
        """Whether an update reads the inputs of the targets' modules."""
        return self._run.calibrator.is_needed

    @property
    def needs_coupling(self) -> bool:
        """Whether :meth:`couple` has to be called before an update."""
        return self._run.needs_coupling

    def couple(self, example_input: Any) -> None:
        """Find the units that are coupled over several targets, by tracing an example input through the model.

        Args:
            example_input: a tensor, a tuple of arguments or a mapping of keywords.

        Raises:
            CouplingError: the model cannot be traced; the message names the module.
            ValueError: the pattern has no such units, no target makes any, or the sparsity cannot be reached.
        """
        self._run.couple(example_input)

    def start(self) -> Update | None:
        """Make the update that a schedule has before the first step (``begin`` 0).

        A plain loop need not call it: it happens after the first backward pass, whose gradients the update may read.

        Returns:
            The update, or None if none was due.

        Raises:
            NonFiniteError: a score or weight is not finite; masks and weights are as they were.
        """
        progress = self._run.progress
        return self._count(progress.count_start) if progress.starts else None

    def tick(self) -> Update | None:
        """Count one optimizer step; update the masks if an update is due, and set pruned entries to zero.

        A step is not counted where the update after it reads gradients that are not there yet: they overflowed in a
        fused optimizer, which then skips the step by itself, or one of several optimizers has not stepped. The update
        is made at the first call after all have.

        Returns:
            The update, or None if none was due.

        Raises:
            NonFiniteError: at an update, a score or weight is not finite; masks and weights are as they were.
            RuntimeError: a layer, parameter or optimizer was replaced, see :meth:`check_attached`; nothing was counted.
        """
        run = self._run
        run.check_not_joining()
        if not self.optimizers:
            self.start()
        if self._feed.is_waiting():
            run.apply()
            return None
        if self._feed.waits_for_all:
            self.start()
        update = self._count(run.progress.count_step)
        run.held_errors.raise_due(self.clock.step)
        if self.clock.step == self._total_steps:
            self.raise_held_errors()
        return update

    def end_epoch(self) -> Update | None:
        """Count one epoch, after its last step; update the masks if an update is due.

        Returns:
            The update, or None if none was due.

        Raises:
            NonFiniteError: at an update, a score or weight is not finite; masks and weights are as they were.
        """
        return self._count(self._run.progress.count_epoch)

    def updates_next(self, ending_epoch: bool = False) -> bool:
        """Return whether the masks will be updated when the current step is done.

        Args:
            ending_epoch: the current step is the last of its epoch.
        """
        return self._run.progress.updates_next(ending_epoch)

    def check_attached(self) -> None:
        """Raise where a layer, parameter or optimizer was replaced since the pruner was built; no host sync.

        Every :meth:`tick` and update makes this check. Call it where an optimizer of your own may step without a tick.

        Raises:
            RuntimeError: naming what was replaced, and what to do.
        """
        self._run.check_attached()

    def apply(self) -> None:
        """Set pruned entries to zero, in place; no host sync."""
        self._run.apply()

    def mask_gradients(self, ending_epoch: bool = False, optimizer: Optimizer | None = None) -> None:
        """Set the gradients of pruned connections to zero, so that they do not count in a norm.

        For loops that clip by norm: call it after the backward pass and before ``clip_grad_norm_``; the callback does
        so by itself where Lightning clips. An update that follows the step still reads the dense gradients. Latent
        weights all train, so their gradients stay.

        Args:
            ending_epoch: the current step is the last of its epoch.
            optimizer: one of this pruner's, whose targets alone are meant; None: all.
        """
        self._feed.mask(ending_epoch, optimizer)

    @torch.no_grad()
    def observe(self) -> None:
        """Show the gradients of every target to the strategy; call it after the backward pass, before the step."""
        with self._run.hold_errors():
            for position in range(len(self.targets)):
                self._run.observer.observe(position)

    def calibrate(
        self, batches: Iterable[Any], forward: Callable[[Any], Any] | None = None, *, progress: bool = True
    ) -> None:
        """Run batches forward and capture the inputs of the targets' modules, for strategy and reconstruction.

        The model runs in evaluation mode and returns to its own mode; nothing is trained. Where several processes train
        the model, all of them call this together, one that has no data with no batches; an error in one of them is
        raised in all.

        Args:
            batches: each is one argument of ``forward``.
            forward: runs one batch; by default the model itself, which gets a mapping as keyword arguments, as it does
                an ``example_input``.
            progress: show a progress bar where it takes more than two seconds and stderr is a terminal or a notebook.

        Raises:
            ValueError: no setting reads inputs, or the inputs of a target's module cannot be captured.
        """
        with torch.no_grad(), self.ranks.raise_together():
            self._run.calibrator.run(batches, forward, check_flag("progress", progress) and self.ranks.rank == 0)

    def start_capture(self) -> None:
        """Capture the inputs of the targets' modules from now on, until :meth:`stop_capture`."""
        self._run.calibrator.start_capture()

    def stop_capture(self) -> None:
        """Capture no more inputs; hooks are removed."""
        self._run.calibrator.stop_capture()

    def update(self, sparsity: float | None = None) -> Update:
        """Score, cut, exchange and apply, now.

        Args:
            sparsity: the share to have pruned; by default what the schedule asks for now.

        Raises:
            NonFiniteError: a score or weight is not finite; masks and weights are as they were.
            RuntimeError: the strategy reads gradients or inputs and there are none; likewise.
            RankError: another process failed; or the processes hold different masks, which the update has changed.
        """
        asked = self._run.progress.due_sparsity if sparsity is None else check_share("sparsity", sparsity)
        return self._update(asked)

    def raise_sparsity(self, sparsity: float) -> Update | None:
        """Prune to a sparsity beyond the schedule's, now or after the next step.

        The update waits for the next step where it reads the gradients or the layer inputs of a batch.

        Args:
            sparsity: the share to have pruned.

        Returns:
            The update; None where it is made after the next step.

        Raises:
            NonFiniteError: a score or weight is not finite; masks and weights are as they were.
        """
        if not (self.needs_layer_inputs or self._run.plan.reads_last_gradients):
            return self.update(sparsity)
        self._run.progress.requested_sparsity = check_share("sparsity", sparsity)
        return None

    def _count(self, count: Callable[[], bool]) -> Update | None:
        """Count and make the update that is then due; where that fails, nothing was counted."""
        run, progress = self._run, self._run.progress
        before = progress.position()
        try:
            starting = progress.starts
            is_due = count()
            if run.rewind is not None:
                with run.hold_errors():
                    run.rewind.keep(self.clock.step)
            if is_due:
                # The update after the first step reads the same inputs as the one before it.
                keeps_inputs = starting and progress.has_started and progress.updates_next()
                return self._update(progress.due_sparsity, keeps_inputs, stacklevel=5)
            with run.hold_errors():
                run.check_attached()
            run.apply()
        except BaseException:
            progress.go_back(before)
            raise
        return None

    @torch.no_grad()
    def _update(self, sparsity: float, keeps_inputs: bool = False, stacklevel: int = 4) -> Update:
        clock = self.schedule_clock
        strategy, threshold = settings_at(self.strategy, clock), settings_at(self.threshold, clock)
        assert not isinstance(strategy.exchange, Schedule)  # settings_at made it a number
        exchange = 0.0 if self.clock.step == 0 else strategy.exchange
        request = UpdateRequest(strategy, threshold, sparsity, exchange)
        return update_run(self._run, request, keeps_inputs, stacklevel)

    @torch.no_grad()
    def slim(self, example_input: Any = None) -> dict[str, tuple[int, int]]:
        """Remove the pruned units from all their tensors: the model computes the same with smaller parameters.

        Parameters stay the same objects, and the optimizers' slots follow entry for entry. Removed connections still
        count as pruned. The journal discards the positions it recorded, which mean nothing in smaller tensors.

        Args:
            example_input: the outputs on it are compared before and after, in eval mode: a tensor, a tuple of arguments
                or a mapping of keywords. None: they are not compared.

        Returns:
            Group name -> its units before and after.

        Raises:
            SlimError: the outputs would change; model, optimizers and masks are as before.
            ValueError: the pattern has no units to remove, weights are to be rewound, or an optimizer keeps something
                that cannot be narrowed; the model is as before.
        """
        return slim_run(self._run, example_input)

    def check_slim(self, example_input: Any) -> None:
        """Raise if pruned heads cannot be removed by :meth:`slim`; half the heads are removed for a trial.

        Args:
            example_input: a tensor, a tuple of arguments or a mapping of keywords.

        Raises:
            CouplingError: an attention module does not compute the same with fewer heads; the message names it and the
                settings that leave it out.
        """
        check_slim(self._run, example_input)

    @torch.no_grad()
    def restore(self, step: int) -> Update:
        """Bring back the masks of ``step`` optimizer steps, and the weights that were cut since.

        Connections that were kept then and are pruned now return, with the value they had when they were cut if the
        journal remembers values, else at zero; latent weights return with their present values. Connections that
        returned since are pruned. The values of all others stay. It is an update, and recorded as one.

        Args:
            step: optimizer steps done at the moment to return to.

        Raises:
            ValueError: there is no journal, it does not reach back so far, or several processes hold parts of targets.
        """
        self._run.check_attached()
        return restore_masks(self._run, step)

    def hold_errors(self) -> AbstractContextManager[None]:
        """Return a block between two updates, whose errors are raised in all processes; with one process, at once.

        An error of the block reaches the other processes without a message a step, and is raised in all by the
        :meth:`tick` after the next one; the block and what follows it go on until then.
        """
        return self._run.hold_errors()

    def raise_held_errors(self) -> None:
        """Raise, in all processes, an error that one of them met since the last update; all of them call this.

        With several processes such an error is raised at the step after the next, so that none waits for a failed one.
        :meth:`tick` calls this after the last of ``total_steps``; call it at the end of a loop whose length is not
        given.

        Raises:
            RankError: another process failed; the message quotes its error.
        """
        with self.ranks.raise_together():
            self._run.held_errors.raise_own()

    def close(self) -> None:
        """Detach from the model, so that another pruner may take over its parameters."""
        self._run.held_errors.close()
        self._feed.close()
        self._run.optimizer_check.close()
        self.stop_capture()
        self.apply()
        remove_owner(self)

    def state_dict(self, beside: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return all there is to resume from: tensors and plain values; masks as bits.

        Sharded targets are gathered, so that training can be resumed with any number of processes; all processes call
        this together.

        Args:
            beside: further entries to keep under the same checksum, tensors and plain values.
        """
        return save_run(self._run, beside or {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a :meth:`state_dict`; everything is checked before anything is changed.

        Raises:
            ValueError: the state is damaged, of another version, of other targets or shapes, or of another strategy.
        """
        load_run(self._run, state)
