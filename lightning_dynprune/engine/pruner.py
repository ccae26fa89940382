"""The engine: targets, masks and a clock, and the one loop from scores to masks."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from lightning_dynprune.base import check_share
from lightning_dynprune.distributed import Ranks, mask_checksum, owned_here
from lightning_dynprune.engine import state as checkpoint
from lightning_dynprune.engine.calibrator import Calibration
from lightning_dynprune.engine.coupled import GroupMasks, revise_groups
from lightning_dynprune.engine.gradients import LastGradients, Observation, Stepping
from lightning_dynprune.engine.mask_update import Changes, revise
from lightning_dynprune.engine.min_kept import floors, name_reached, refuse_out_of_reach
from lightning_dynprune.engine.ownership import disown, own, refuse_two_owners
from lightning_dynprune.engine.rewind import Rewind
from lightning_dynprune.engine.settings import Settings
from lightning_dynprune.engine.sharding_limits import check_no_flat_parameters, check_supports_sharding
from lightning_dynprune.engine.slimming import take_out
from lightning_dynprune.journal import Delta, Journal, Update
from lightning_dynprune.masks import (
    LatentWeights,
    MaskSet,
    optimizer_holds,
    reset_slots,
    select_along,
    without_scratch_bit,
)
from lightning_dynprune.patterns import CoupledPattern, Pattern, TargetPattern
from lightning_dynprune.schedules import Clock, Horizon, Schedule, resolve_settings, settings_at, sparsity_schedule
from lightning_dynprune.selection import check_finite
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import (
    Selector,
    Target,
    Targets,
    TargetView,
    find_targets,
    unwrapped_model,
    unwrapped_optimizers,
)
from lightning_dynprune.thresholds import Threshold


class Pruner:
    """Prunes a model while a plain PyTorch loop trains it.

    Call :meth:`tick` after every optimizer step, and :meth:`end_epoch` after the last step of an epoch where updates
    are placed on epochs. Parameters are never wrapped or renamed: after each tick pruned entries are exactly +0.0.
    ``sparsity`` alone prunes, over all targets at once, what the loss heeds least (``taylor``: weight x gradient).

    Args:
        model: the network; of a compiled or data-parallel one, or one set up by Lightning Fabric, what is wrapped.
        optimizer: the optimizer or optimizers that train it, so that their slots are cleared at pruned entries; needed
            by strategies that watch every step, as ``taylor`` does, and not by ``magnitude``.
        sparsity: share of connections to end at, in [0, 1); None where the schedule or the targets give it.
        strategy: what a connection is worth: a registered name, a mapping (``name`` and settings) or an instance.
        threshold: where the cut falls, likewise; by default the strategy's own, and a mapping without a ``name``
            changes its settings.
        schedule: when to update and how sparse to be by then, likewise.
        pattern: what is kept or pruned together, likewise.
        targets: which parameters are pruned; see :func:`~lightning_dynprune.targets.target.find_targets`.
        exclude: globs and types never pruned.
        min_kept: connections that every target keeps, at least.
        reconstruct: refit the weights that stay to the layer's output at each cut, see
            :class:`~lightning_dynprune.calibration.reconstruction.Hessians`; needs :meth:`calibrate` before an update.
        rewind: optimizer steps after which the model is copied, to be put back at every later update; None: never.
        journal: record every update, see :class:`~lightning_dynprune.journal.Journal`: True, False or its settings.
        seed: of random strategies.
        example_input: what the model takes, for patterns that follow it through the model: a tensor, a tuple of
            arguments or a mapping of keywords. It may also be given later, to :meth:`couple`.
        total_steps: optimizer steps of the whole training, for moments given as a share of it.
        steps_per_epoch: optimizer steps of an epoch, for moments given in epochs.
        epochs: epochs of the whole training.
        process_group: the processes that train this model together, whose masks are one; by default all of
            ``torch.distributed``, where it is initialised. A group of one prunes on its own.
        trial_run: this is a short trial of a longer training; a schedule that ends later is drawn together into it.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting that cannot work; a parameter that another pruner prunes already, or that FSDP1 has
            flattened.

    Attributes:
        targets: the parameters that are pruned.
        masks: their masks.
        clock: optimizer steps and epochs so far.
        updates: how often the masks were updated.
        scheduled_sparsity: what the schedule asked for at the last update.
        carried: what an earlier training had pruned; the schedule is followed from there on.
        last_update: the last update, or None before the first.
        journal: the record of all updates; None where it is off.
        waits_for_all_optimizers: an update reads the gradients of the last step of each of several optimizers; in a
            plain loop it follows the first :meth:`tick` by which all have stepped.
        units: the units that reach over several targets; None where the pattern has none, or before :meth:`couple`.

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
        strategy: str | Mapping[str, Any] | Strategy = "taylor",
        threshold: str | Mapping[str, Any] | Threshold | None = None,
        schedule: str | Mapping[str, Any] | Schedule | None = None,
        pattern: str | Mapping[str, Any] | Pattern = "element",
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
        horizon = Horizon(total_steps, steps_per_epoch, epochs, trial_run)
        self.model = model = unwrapped_model(model)
        check_no_flat_parameters(model)
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
        self.targets = find_targets(model, targets, exclude, settings.min_kept)
        refuse_two_owners(self.targets)
        self.strategy = resolve_settings(settings.strategy, horizon)
        self.threshold = resolve_settings(settings.threshold, horizon)
        self.pattern = settings.pattern
        planned = self.pattern.final_sparsity(
            self.targets, self.threshold.final_sparsity(self.targets, settings.sparsity)
        )
        self.schedule = sparsity_schedule(settings.schedule, planned).resolve(horizon)
        self.pattern.final_sparsity(self.targets, self.schedule.final)
        self.pattern.check(self.targets, self.strategy, self.threshold, self.schedule)
        self.optimizers = unwrapped_optimizers(optimizer)
        needs_optimizer = self.strategy.accumulates or self.strategy.latent
        if needs_optimizer and not self.optimizers:
            raise ValueError(
                f"strategy={type(self.strategy).__name__} watches every step, so it needs the optimizer; "
                "give it as Pruner(model, optimizer), or give strategy='magnitude', which needs none"
            )
        self.seed = settings.seed
        self._seeded: tuple[int, int] | None = None
        self._seeds: list[tuple[int, int]] = []
        self.clock = Clock()
        self.lag = Clock()
        self.paused = False
        self.updates = 0
        self.scheduled_sparsity = self.schedule.initial
        self.carried = 0.0
        self.last_update: Update | None = None
        self.ranks = Ranks(process_group, self.targets[0].values.device)
        owned = owned_here([target.parameter for target in self.targets], self.ranks)
        for target, is_owner in zip(self.targets, owned, strict=True):
            target.shard = None if target.shard is None else dataclasses.replace(target.shard, is_owner=is_owner)
        self.masks = MaskSet(self.targets, self.ranks)
        if self.threshold.exact and not self.pattern.coupled:
            refuse_out_of_reach(self.masks, self.pattern, self.target_sparsity)
        self.journal = None if settings.journal is None else Journal(self.masks, **settings.journal)
        remembers = self.journal is not None and self.journal.remember_values
        check_supports_sharding(self.targets, self.pattern, self.strategy, reconstruct, rewind, remembers)
        for target in self.targets:
            target.state = self.strategy.init_state(target)
            target.memory = self.threshold.init_memory(target)
        self.latent = LatentWeights(self.masks) if self.strategy.latent else None
        if self.latent is not None:
            self.latent.allocate()
        self.units: GroupMasks | None = None
        self._coupled_state: dict[str, Tensor] | None = None
        if isinstance(self.pattern, CoupledPattern) and (example_input is not None or not self.pattern.needs_example):
            self.couple(example_input)
        self._calibration = Calibration(model, self.masks, self.strategy, self._view, reconstruct)
        self._rewind = None if settings.rewind is None else Rewind(model, settings.rewind)
        self._masked_gradients = False
        self._overflow: Tensor | None = None
        self._started = self._starting = False
        self._at_floor: set[str] = set()
        self._trained_by = [self._positions(optimizer) for optimizer in self.optimizers]
        self._last_gradients = LastGradients(self.targets, self._trained_by)
        self._observation = Observation(self.masks, self.strategy, self._view, self.optimizers, self._trained_by)
        watched = [o for o, positions in zip(self.optimizers, self._trained_by, strict=True) if positions]
        # By hand each steps with gradients of its own, which the next one's backward pass may add to or zero.
        self.waits_for_all_optimizers = self._reads_last_gradients and len(watched) > 1
        curved = [optimizer for optimizer in watched if isinstance(optimizer, LBFGS)]
        if curved and self.strategy.latent:
            raise ValueError(
                f"strategy={type(self.strategy).__name__} keeps latent weights, which LBFGS cannot train: it goes by "
                "the curvature between gradients taken at w * m, and moves w by it; give another optimizer, or a "
                "strategy with hard masks"
            )
        self._stepping = None
        if needs_optimizer or self.strategy.needs_gradients or self.schedule.is_due_at_start(self.clock) or curved:
            self._stepping = Stepping(watched, self._before_step, self._after_step)
        if self._rewind is not None:
            self._rewind.keep(0)
        own(self)

    @property
    def sparsity(self) -> float:
        """Share of connections pruned, over the targets."""
        return self.masks.sparsity

    @property
    def unit(self) -> int:
        """Connections that are pruned together, at most: what a sparsity can be off by."""
        return self.pattern.size if self.units is None else self.units.largest

    @property
    def target_sparsity(self) -> float:
        """Share of connections to end at."""
        return self.schedule.final

    @property
    def layer_sparsity(self) -> dict[str, float]:
        """Share of connections pruned, by target."""
        return {
            t.name: (whole - kept) / whole if whole else 0.0
            for t, kept, whole in zip(self.targets, self.masks.kept, self.masks.original_numel, strict=True)
        }

    @property
    def schedule_clock(self) -> Clock:
        """The clock that the schedule is read at: it stands still while :attr:`paused`."""
        return Clock(self.clock.step - self.lag.step, self.clock.epoch - self.lag.epoch)

    @property
    def has_ended(self) -> bool:
        """Whether the schedule's last update is done."""
        span = self.schedule.span
        clock = self.schedule_clock
        return span is not None and (clock.step if span.unit == "steps" else clock.epoch) >= span.end

    @property
    def waits_for_data(self) -> bool:
        """Whether an update needs what a batch brings: gradients, inputs or an example input."""
        return self.strategy.needs_gradients or self.needs_layer_inputs or self.needs_coupling

    @property
    def needs_layer_inputs(self) -> bool:
        """Whether an update needs the inputs of the targets' modules."""
        return self._calibration.is_needed

    @property
    def needs_coupling(self) -> bool:
        """Whether :meth:`couple` has to be called before an update."""
        return self.pattern.coupled and self.units is None

    def couple(self, example_input: Any) -> None:
        """Find the units that reach over several targets, by an example input that the model takes.

        Args:
            example_input: a tensor, a tuple of arguments or a mapping of keywords.

        Raises:
            CouplingError: the model cannot be followed; the message names the module.
            ValueError: the pattern has no such units, no target makes any, or the sparsity is out of their reach.
        """
        if not isinstance(self.pattern, CoupledPattern):
            raise ValueError(f"pattern {self.pattern.label} has no units that reach over several targets")
        units = GroupMasks(self.model, self.pattern.groups(self.model, example_input), self.masks, self.pattern)
        if self.masks.sparsity == 0.0 and self.target_sparsity > units.most:
            raise ValueError(
                f"sparsity={self.target_sparsity!r} is not within reach of pattern {self.pattern.label}: with "
                f"min_kept, round_to={self.pattern.round_to} and the connections that belong to no unit "
                f"{units.most:.6g} at most is pruned here"
            )
        self.units = units
        if self._coupled_state is not None:
            units.load_state_dict(self._coupled_state)
            self._coupled_state = None

    def start(self) -> Update | None:
        """Make the update that a schedule has before the first step (``begin`` 0).

        A plain loop need not call it: it happens after the first backward pass, which such an update may read.

        Returns:
            The update, or None where none was due.

        Raises:
            NonFiniteError: a score or weight is not finite; masks and weights are as they were.
        """
        if self._started or not self.schedule.is_due_at_start(self.clock):
            return None
        self._started = True
        self._starting = True
        try:
            return self.update()
        finally:
            self._starting = False

    def tick(self) -> Update | None:
        """Count one optimizer step; update the masks if that is due, and set pruned entries to zero.

        Where an update is due that reads the gradients of the step, and they overflowed in a fused optimizer, which
        skips the step by itself, or one of several optimizers has not stepped, the step is not counted: the update
        waits until each has.

        Returns:
            The update, or None where none was due.

        Raises:
            NonFiniteError: at an update, a score or weight is not finite; masks and weights are as they were.
        """
        if not self.optimizers:
            self.start()
        if self._waits():
            self.apply()
            return None
        if self.waits_for_all_optimizers:
            self.start()
        self.clock.step += 1
        self.lag.step += self.paused
        if self._rewind is not None:
            self._rewind.keep(self.clock.step)
        if not self.paused and self.schedule.is_due(self.schedule_clock, "steps"):
            return self.update()
        self.apply()
        return None

    def end_epoch(self) -> Update | None:
        """Count one epoch, after its last step; update the masks if that is due.

        Returns:
            The update, or None where none was due.

        Raises:
            NonFiniteError: at an update, a score or weight is not finite; masks and weights are as they were.
        """
        self.clock.epoch += 1
        self.lag.epoch += self.paused
        due = not self.paused and self.schedule.is_due(self.schedule_clock, "epochs")
        return self.update() if due else None

    def updates_next(self, ending_epoch: bool = False) -> bool:
        """Return whether the masks will be updated when the running step is done.

        Args:
            ending_epoch: the running step is the last of its epoch.
        """
        if self.paused:
            return False
        if not self._started and self.schedule.is_due_at_start(self.clock):
            return True
        clock = self.schedule_clock
        after = Clock(clock.step + 1, clock.epoch + ending_epoch)
        return self.schedule.is_due(after, "steps") or (ending_epoch and self.schedule.is_due(after, "epochs"))

    def apply(self) -> None:
        """Set pruned entries to zero, in place; no host sync."""
        if self.units is not None:
            self.units.apply()
        if self.latent is None:
            self.masks.apply()
            return
        for position in range(len(self.targets)):
            self.latent.split(position)

    @torch.no_grad()
    def mask_gradients(self, ending_epoch: bool = False, optimizer: Optimizer | None = None) -> None:
        """Set the gradients of pruned connections to zero, so that a norm taken of them is that of what trains.

        For loops that clip by norm: call it after the backward pass and before ``clip_grad_norm_``; the callback does
        so by itself where Lightning clips. An update that follows the step still reads the dense gradients. Latent
        weights all train, so theirs are left.

        Args:
            ending_epoch: the running step is the last of its epoch.
            optimizer: one of this pruner's, whose targets alone are meant; None: all.
        """
        if self.latent is not None:
            return
        self._masked_gradients = True
        reads_them = self.strategy.needs_gradients and self.updates_next(ending_epoch)
        everything: Sequence[int] = range(len(self.targets))
        for position in everything if optimizer is None else self._trained_by[self.optimizers.index(optimizer)]:
            target = self.targets[position]
            grad = target.grad
            self._last_gradients.drop(position)
            if grad is None:
                continue
            if reads_them:  # of every target, so that all are compared as they were before the clipping
                self._last_gradients.keep(position)
            if self.masks.kept[position] < target.numel:
                self.masks.zero_pruned(position, grad)
        if self.units is not None:
            self.units.mask_gradients()

    @torch.no_grad()
    def observe(self) -> None:
        """Let the strategy take note of the gradients of every target; after the backward pass, before the step."""
        for position in range(len(self.targets)):
            self._observation.take(position)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Any], forward: Callable[[Any], Any] | None = None) -> None:
        """Run batches forward, so that strategy and reconstruction see the inputs of the targets' modules.

        The model runs in evaluation mode and is put back in its own; nothing is trained.

        Args:
            batches: what ``forward`` takes, one after the other.
            forward: runs one batch; by default the model itself.

        Raises:
            ValueError: nothing here needs inputs, or a target's module is none whose inputs are known.
        """
        self._calibration.run(batches, forward)

    def start_capture(self) -> None:
        """Watch the inputs of the targets' modules from here on, until :meth:`stop_capture`."""
        self._calibration.start_capture()

    def stop_capture(self) -> None:
        """Watch inputs no longer; hooks are removed."""
        self._calibration.stop_capture()

    @torch.no_grad()
    def update(self, sparsity: float | None = None) -> Update:
        """Score, cut, exchange and apply, now.

        Args:
            sparsity: the share to have pruned; by default what the schedule asks for now.

        Raises:
            NonFiniteError: a score or weight is not finite; masks and weights are as they were.
            RuntimeError: the strategy reads gradients or inputs and there are or were none; likewise.
            RankError: another process failed; or the processes hold different masks, which the update has changed.
        """
        clock = self.schedule_clock
        scheduled = max(self.schedule.value(clock), self.carried)
        asked = scheduled if sparsity is None else check_share("sparsity", sparsity)
        self._calibration.add_up(self.ranks)
        self._calibration.check()
        if asked:
            self._observation.check()
        if self.needs_coupling:
            raise RuntimeError(
                f"pattern {self.pattern.label} follows an example input through the model, and there is none; give "
                "Pruner(..., example_input=...) or call pruner.couple(example_input) before the first update"
            )
        strategy, threshold = settings_at(self.strategy, clock), settings_at(self.threshold, clock)
        floors_before = floors(self.masks, self.pattern, self.units)
        deltas: list[Delta] = []

        def written(position: int, before: Tensor | None) -> None:
            self._written(position, before, deltas)
            self._calibration.refit(position)

        # The step moved pruned entries too; what grows starts at zero.
        self.apply()
        self._join(range(len(self.targets)))
        try:
            with self.ranks.raise_together():
                for target in self.targets:
                    check_finite(target.values, f"weights of {target.name}")
            views = [self._view(position) for position in range(len(self.targets))]
            if self.units is not None:
                changes = revise_groups(self.units, views, strategy, threshold, asked, self.optimizers, written)
            else:
                assert isinstance(self.pattern, TargetPattern)  # a coupled one has units by now
                changes = revise(
                    self.masks,
                    views,
                    strategy,
                    threshold,
                    self.pattern,
                    asked,
                    0.0 if self.clock.step == 0 else _number(strategy.exchange),
                    written,
                    # A mask that only shrinks, and is not recorded, tells all that is needed by itself.
                    remember=self.journal is not None and self.masks.shard_ranks is None,
                )
        except BaseException:
            self.apply()
            raise
        # Nothing can fail from here on, so masks and weights change together or not at all.
        self.apply()
        if self._rewind is not None:
            self._rewind.back(self.optimizers)
            self.apply()
        self._last_gradients.clear()
        # An update that follows this very step reads the same inputs.
        if not (self._starting and self.updates_next()):
            self._calibration.forget()
        name_reached(floors_before, floors(self.masks, self.pattern, self.units), self._at_floor, stacklevel=3)
        return self._record(asked, changes, deltas)

    @torch.no_grad()
    def slim(self) -> dict[str, tuple[int, int]]:
        """Take the pruned units out of all their tensors: the model computes the same, with smaller parameters.

        Parameters stay the same objects, and the optimizers' slots follow entry for entry. What is gone still counts
        as pruned. The journal lets go of the positions it recorded, for they mean nothing in smaller tensors.

        Returns:
            Group name -> its units before and after.

        Raises:
            ValueError: the pattern has no units to take out, weights are to be rewound, or an optimizer keeps something
                that cannot follow; the model is as before.
        """
        if self.units is None or self._rewind is not None:
            raise ValueError(
                f"pattern {self.pattern.label} with rewind={None if self._rewind is None else self._rewind.step} has "
                "nothing to slim; give pattern channel or head, after couple(), and rewind=None. What other patterns "
                "left whole channels of zeros in, lightning_dynprune.deploy.slimming.removal makes smaller"
            )
        widths = {g.name: (g.units, kept) for g, kept in zip(self.units.groups, self.units.counts, strict=True)}
        self.apply()
        stayed = take_out(self.model, self.units.groups, self.units.alive, self.optimizers)
        for position, target in enumerate(self.targets):
            if dims := stayed.get(target.name):
                self.masks.narrow(position, dims)
                target.state.update(_narrowed(self.strategy, target, dims))
        self.units.narrow(stayed)
        self._calibration.forget()
        if stayed and self.journal is not None:
            self.journal.discard_positions(self.clock.step, "pruned units are taken out of the model")
        return widths

    @torch.no_grad()
    def restore(self, step: int) -> Update:
        """Bring the masks back to what they were after ``step`` optimizer steps, and what they let go with them.

        Connections that lived then and are pruned now return, with the value they had when they were cut if the journal
        remembers values, else at zero; latent weights return with what they have become. Connections that came since
        are pruned. Values of connections that live then and now stay. It is an update, and recorded as one.

        Args:
            step: optimizer steps done at the moment to return to.

        Raises:
            ValueError: there is no journal, it does not reach back so far, or several processes hold parts of targets.
        """
        if self.journal is None:
            raise ValueError("journal=False: nothing was recorded to restore; give journal=True")
        if self.masks.shard_ranks is not None:
            raise ValueError(
                "restore: several processes hold parts of the targets, so that no positions were recorded to go back "
                "to; train by DDP to restore masks"
            )
        wanted = self.journal.mask_at(step)
        remembers = self.latent is None and self.journal.remember_values
        values = self.journal.values_at(step) if remembers else {}
        self._join(range(len(self.targets)))
        deltas: list[Delta] = []
        dropped, grown = [], []
        for position, target in enumerate(self.targets):
            before = without_scratch_bit(self.masks.tensors[position])
            mask = wanted[target.name].to(before.device)
            lost, won = self.masks.write(position, [mask.reshape(-1)])
            dropped.append(lost)
            grown.append(won)
            self._written(position, before, deltas)
            if target.name in values:
                index, kept = values[target.name]
                flat = target.parameter.detach().reshape(-1)
                flat[index.to(flat.device)] = kept.to(flat)
                target.parameter.copy_(flat.view_as(target.parameter))
        if self.units is not None:
            self.units.follow()
        self.apply()
        self.journal.note(self.clock.step, f"masks restored to what they were after step {step}")
        return self._record(self.sparsity, Changes([], dropped, grown), deltas)

    def close(self) -> None:
        """Let go of the model: another pruner may take over its parameters."""
        if self._stepping is not None:
            self._stepping.close()
        self.stop_capture()
        self.apply()
        disown(self)

    def state_dict(self, beside: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return all there is to resume from: tensors and plain values; masks as bits.

        Where processes hold targets in parts the state is of whole targets, so that it can be resumed with any number
        of processes; all of them call this together.

        Args:
            beside: further entries to keep under the same checksum, tensors and plain values.
        """
        state = {
            "version": checkpoint.VERSION,
            "clock": dataclasses.asdict(self.clock),
            "lag": dataclasses.asdict(self.lag),
            "paused": self.paused,
            "updates": self.updates,
            "scheduled_sparsity": self.scheduled_sparsity,
            "carried": self.carried,
            "last_update": None if self.last_update is None else dataclasses.asdict(self.last_update),
            "seed": self.seed,
            "pattern": self.pattern.label,
            "whole": list(self.masks.original_numel),
            "shapes": {t.name: list(t.parameter.shape) for t in self.targets},
            "masks": self.masks.pack(),
            "state": {t.name: {key: self._whole(t, value) for key, value in t.state.items()} for t in self.targets},
            "memory": {t.name: dict(t.memory) for t in self.targets},
            "journal": None if self.journal is None else self.journal.state_dict(),
            "rewind": None if self._rewind is None else self._rewind.state_dict(),
            "units": self._coupled_state if self.units is None else self.units.state_dict(),
            "at_floor": sorted(self._at_floor),
            "turns": self._last_gradients.state_dict(),
        }
        return checkpoint.sealed({**state, **(beside or {})})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`; everything is checked before anything is changed.

        Raises:
            ValueError: the state is damaged, of another version, of other targets or shapes, or of another strategy.
        """
        checkpoint.refuse_other_version(state)
        checkpoint.refuse_other_checksum(state)
        checkpoint.refuse_damaged(state)
        checkpoint.refuse_other_pattern(self.pattern, state)
        checkpoint.refuse_other_targets(self.targets, state)
        kept = {t.name: {k: self._whole_like(t, v) for k, v in t.state.items()} for t in self.targets}
        checkpoint.refuse_other_part("strategy", self.strategy, state["state"], kept)
        memory = {t.name: t.memory for t in self.targets}
        checkpoint.refuse_other_part("threshold", self.threshold, state["memory"], memory)
        masks = self.masks.unpack(state["masks"])
        if self.latent is not None:
            checkpoint.refuse_overlap(self.targets, masks, state["state"])
        if self.units is not None and state["units"] is not None:
            self.units.refuse_others(state["units"])
        if self._rewind is not None and state["rewind"] is not None:
            self._rewind.refuse_other_model(state["rewind"])
        # The journal checks the whole of its record before it takes any of it, and is the last that can refuse.
        if self.journal is not None and state["journal"] is not None:
            self.journal.load_state_dict(state["journal"])
        if self._rewind is not None and state["rewind"] is not None:
            self._rewind.load_state_dict(state["rewind"])
        self.masks.load(masks)
        self.masks.original_numel = list(state["whole"])
        for target in self.targets:
            for key, value in state["state"][target.name].items():
                kept_here = target.state[key]
                kept_here.copy_(value if kept_here.shape == value.shape else target.local_part(value))
            for key, value in state["memory"][target.name].items():
                target.memory[key].copy_(value)
        self.clock, self.lag, self.paused = Clock(**state["clock"]), Clock(**state["lag"]), state["paused"]
        self.updates, self.seed = state["updates"], state["seed"]
        self.scheduled_sparsity, self.carried = state["scheduled_sparsity"], state["carried"]
        self.last_update = None if state["last_update"] is None else Update(**state["last_update"])
        self._started = self.last_update is not None
        self._at_floor = set(state["at_floor"])
        self._last_gradients.load_state_dict(state["turns"])
        if self.latent is not None:
            self.latent.mark_split()
        self._observation.resume()
        if self.units is None:
            self._coupled_state = state["units"]
        elif state["units"] is not None:
            self.units.load_state_dict(state["units"])
        self.apply()

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer) -> None:
        """Let latent weights into the parameters, let the strategy observe; start where that waited for gradients."""
        number = self.optimizers.index(optimizer)
        self._join(self._trained_by[number])
        self._observation.before_step(number)
        self._overflow = getattr(optimizer, "found_inf", None)
        if self.waits_for_all_optimizers and self.updates_next(ending_epoch=True) and not self._overflows():
            self._last_gradients.take_turn(number, keep=not self._masked_gradients)
        if not self._waits() and self.start() is not None:
            self._join(self._trained_by[number])
        # It evaluates the loss on its way, and goes by curvature: what is pruned must have no part in either.
        if isinstance(optimizer, LBFGS) and not self._masked_gradients:
            self.mask_gradients(ending_epoch=True, optimizer=optimizer)

    @property
    def _reads_last_gradients(self) -> bool:
        """Whether an update reads the gradients of the step that it follows, and nothing of those before."""
        return self.strategy.needs_gradients and not self.strategy.accumulates

    def _waits(self) -> bool:
        """Return whether an update is due that has to wait for gradients."""
        if not self._reads_last_gradients or not self.updates_next():
            return False
        if not self.waits_for_all_optimizers:
            return self._overflows()
        return not self._last_gradients.are_complete

    def _overflows(self) -> bool:
        """Return whether a fused optimizer skips this step, as its gradients overflowed; a host sync if it may."""
        return self._overflow is not None and bool(self._overflow)

    def _after_step(self, optimizer: Optimizer) -> None:
        self._masked_gradients = False
        if self.latent is not None:
            for position in self._trained_by[self.optimizers.index(optimizer)]:
                self.latent.split(position)

    def _join(self, positions: Iterable[int]) -> None:
        if self.latent is not None:
            for position in positions:
                self.latent.join(position)

    def _record(self, asked: float, changes: Changes, deltas: Sequence[Delta]) -> Update:
        """Count an update and write it down."""
        names = [target.name for target in self.targets]
        self.updates += 1
        self.scheduled_sparsity = asked
        self.last_update = Update(
            self.clock.step,
            asked,
            self.sparsity,
            dict(zip(names, changes.dropped, strict=True)),
            dict(zip(names, changes.grown, strict=True)),
            (sum(changes.dropped) + sum(changes.grown)) / self.masks.total,
            dict(zip(names, changes.cuts, strict=False)),  # a restored mask has no cuts
        )
        in_parts = self.masks.shard_ranks is not None
        if self.journal is not None:
            self.journal.add(self.last_update, None if in_parts else deltas)
            if in_parts:
                self.journal.discard_positions(
                    self.clock.step, "several processes hold parts of the targets: positions are not kept"
                )
        self._agree()
        return self.last_update

    def _agree(self) -> None:
        """Raise where the processes do not hold the same masks."""
        if self.ranks.size == 1:
            return
        sums = [mask_checksum(mask) for mask in self.masks.tensors]
        names = [f"mask of {target.name}" for target in self.targets]
        places = [0 if t.shard is None else t.shard.box_id for t in self.targets]
        # Parts have no copies to be compared with: their scores agree where the seeds do.
        if self.masks.shard_ranks is not None:
            names, sums, places = [*names, "seed"], [*sums, self.seed], [*places, 0]
        self.ranks.check_equal(names, sums, places)

    @staticmethod
    def _whole(target: Target, value: Tensor) -> Tensor:
        return target.full_tensor(value) if value.shape == target.values.shape else value

    @staticmethod
    def _whole_like(target: Target, value: Tensor) -> Tensor:
        """Return a tensor without content, of the shape and type that a value has in a checkpoint."""
        shape = target.parameter.shape if value.shape == target.values.shape else value.shape
        return torch.empty(shape, dtype=value.dtype, device="meta")

    def _written(self, position: int, before: Tensor | None, deltas: list[Delta]) -> None:
        """Follow up on a mask that has been written, while the parameter still holds the values of before."""
        target, after = self.targets[position], self.masks.tensors[position]
        if self.journal is not None and before is not None and self.masks.shard_ranks is None:
            deltas.append(self.journal.delta(before, after, target.values))
        if self.latent is None:
            reset_slots(self.optimizers, target.parameter, after if before is None else before & after)

    def _view(self, position: int) -> TargetView:
        seed, run_seed = self._seeds_of(position)
        view = self.targets[position].view(self.masks.tensors[position], seed, run_seed, self.clock.step)
        if self.strategy.needs_gradients:
            view.grad = self._last_gradients.of(position)
        elif view.grad is not None and view.grad.layout != torch.strided:
            view.grad = None
        return view

    def _positions(self, optimizer: Optimizer) -> list[int]:
        return [i for i, target in enumerate(self.targets) if optimizer_holds(optimizer, {target.parameter})]

    def _seeds_of(self, position: int) -> tuple[int, int]:
        """Return a target's seed of now and that of the run; they are asked for at every step, so they are kept."""
        if self._seeded != (self.seed, self.updates):
            self._seeded = self.seed, self.updates
            self._seeds = [(self._seed(target), self._seed(target, 0)) for target in self.targets]
        return self._seeds[position]

    def _seed(self, target: Target, updates: int | None = None) -> int:
        """Return a number of 62 bits for this run, update and target, the same on every rank and machine."""
        text = f"{self.seed}/{self.updates if updates is None else updates}/{target.name}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 2


def _narrowed(strategy: Strategy, target: Target, stayed: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Return what the strategy remembers of a target that was slimmed; what is no entry of it starts anew."""
    if not strategy.elementwise:
        return strategy.init_state(target)
    state = dict(target.state)
    for dim, positions in stayed.items():
        state = {key: select_along(value, dim, positions) for key, value in state.items()}
    return state


def _number(exchange: float | Schedule) -> float:
    assert not isinstance(exchange, Schedule)  # settled before
    return exchange
