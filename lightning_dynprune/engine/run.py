"""The objects that a pruner builds for one model, shared by updates, gradients and saved state."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from lightning_dynprune.distributed import HeldErrors, JoinCheck, Ranks, owned_here
from lightning_dynprune.engine.attachment import ModelCheck, OptimizerCheck
from lightning_dynprune.engine.calibrator import Calibrator
from lightning_dynprune.engine.coupled import CoupledMasks
from lightning_dynprune.engine.gradients import GradientObserver, GradientSnapshot
from lightning_dynprune.engine.plan import Plan
from lightning_dynprune.engine.progress import Progress
from lightning_dynprune.engine.rewind import Rewind
from lightning_dynprune.engine.updates import MinKeptWarnings, TargetUnits, UncoupledUnits, Units
from lightning_dynprune.engine.views import TargetViews
from lightning_dynprune.engine.weights import HardWeights, SplitWeights, Weights
from lightning_dynprune.journal import Journal
from lightning_dynprune.masks import MaskSet
from lightning_dynprune.patterns import CoupledPattern, TargetPattern


@dataclass
class PruningRun:
    """Everything that changes while one model is pruned.

    Attributes:
        plan: targets, parts and optimizers.
        ranks: the processes that train the model together.
        masks: of the targets.
        weights: sets pruned entries to zero.
        units: writes masks at an update.
        progress: counts steps, epochs and updates.
        snapshot: gradients kept for the next update.
        views: of the targets, for the strategy.
        observer: shows gradients to the strategy at every step.
        calibrator: captures the inputs of layers.
        min_kept_warnings: warns of targets that are pruned down to ``min_kept``.
        journal: the record of all updates; None: none.
        rewind: the weights to go back to at every update; None: none.
        model_check: notices layers and parameters that are replaced.
        optimizer_check: notices optimizers that are replaced.
        join_check: refuses training with uneven batches.
        held_errors: errors between two updates, until all processes raise them.
    """

    plan: Plan
    ranks: Ranks
    masks: MaskSet
    weights: Weights
    units: Units
    progress: Progress
    snapshot: GradientSnapshot
    views: TargetViews
    observer: GradientObserver
    calibrator: Calibrator
    min_kept_warnings: MinKeptWarnings
    journal: Journal | None
    rewind: Rewind | None
    model_check: ModelCheck
    optimizer_check: OptimizerCheck
    join_check: JoinCheck
    held_errors: HeldErrors

    @classmethod
    def build(cls, plan: Plan, ranks: Ranks) -> PruningRun:
        """Build what a plan needs; nothing is pruned yet.

        Args:
            plan: of the pruner.
            ranks: the processes that train the model together.
        """
        settings, strategy = plan.settings, plan.strategy
        owned = owned_here([target.parameter for target in plan.targets], ranks)
        for target, is_owner in zip(plan.targets, owned, strict=True):
            target.shard = None if target.shard is None else dataclasses.replace(target.shard, is_owner=is_owner)
            target.state = strategy.init_state(target)
            target.memory = plan.threshold.init_memory(target)
        masks = MaskSet(plan.targets, ranks)
        progress, held_errors = Progress(plan.schedule), HeldErrors(ranks)
        snapshot = GradientSnapshot(plan.targets, plan.trained_by)
        views = TargetViews(masks, strategy, snapshot, progress, plan.optimizers, settings.seed)
        pattern = plan.pattern
        rewind = None if settings.rewind is None else Rewind(plan.model, settings.rewind)
        if rewind is not None:
            rewind.keep(0)
        return cls(
            plan=plan,
            ranks=ranks,
            masks=masks,
            weights=SplitWeights(masks) if strategy.latent else HardWeights(masks, plan.optimizers),
            units=TargetUnits(masks, pattern) if isinstance(pattern, TargetPattern) else UncoupledUnits(masks, pattern),
            progress=progress,
            snapshot=snapshot,
            views=views,
            observer=GradientObserver(masks, strategy, views.of, plan.optimizers, plan.trained_by),
            calibrator=Calibrator(
                plan.model,
                masks,
                strategy,
                views.of,
                settings.reconstruct,
                lambda: held_errors.hold(progress.clock.step),
            ),
            min_kept_warnings=MinKeptWarnings(),
            journal=None if settings.journal is None else Journal(masks, **settings.journal),
            rewind=rewind,
            model_check=ModelCheck(plan.model, plan.targets),
            optimizer_check=OptimizerCheck(plan.targets, plan.optimizers, plan.trained_by),
            join_check=JoinCheck(plan.targets[0].parameter, plan.optimizers, ranks),
            held_errors=held_errors,
        )

    @property
    def needs_coupling(self) -> bool:
        """Whether the pattern's units are still to be found by an example input."""
        return isinstance(self.units, UncoupledUnits)

    def couple(self, example_input: Any) -> None:
        """Find the units that are coupled over several targets.

        Args:
            example_input: a tensor, a tuple of arguments or a mapping of keywords.

        Raises:
            CouplingError: the model cannot be followed; the message names the module.
            ValueError: the pattern has no such units, no target makes any, or the sparsity cannot be reached.
        """
        plan = self.plan
        if not isinstance(plan.pattern, CoupledPattern):
            raise ValueError(f"pattern {plan.pattern.label} has no units that reach over several targets")
        groups = plan.pattern.groups(plan.model, example_input, [target.name for target in self.masks.targets])
        units = CoupledMasks(plan.model, groups, self.masks, plan.pattern, plan.optimizers)
        units.check_reachable(plan.schedule.final)
        units.load_state_dict(self.units.state_dict() if self.needs_coupling else None)
        self.units = units

    def hold_errors(self) -> AbstractContextManager[None]:
        """Return a block between two updates, an error in which is raised in all processes; with one at once."""
        return self.held_errors.hold(self.progress.clock.step)

    def check_not_joining(self) -> None:
        """Raise where the model trains with uneven batches, once pruned entries are zero; no message, no host sync.

        Raises:
            RuntimeError: naming the wrapper, and what to do.
        """
        try:
            self.join_check.check()
        except RuntimeError:
            self.apply()
            raise

    def check_attached(self) -> None:
        """Raise where a layer, parameter or optimizer was replaced since the pruner was built; no host sync.

        Raises:
            RuntimeError: naming it, and what to do.
        """
        problem = self.model_check.problem()
        if problem is None and (problem := self.optimizer_check.problem()) is not None:
            self.apply()
            self.masks.apply()  # the other optimizer moved pruned entries where no latent weights were expected
        if problem is not None:
            raise RuntimeError(problem)

    def apply(self) -> None:
        """Set pruned entries to zero, in place; no host sync."""
        self.units.apply()
        self.weights.apply()
