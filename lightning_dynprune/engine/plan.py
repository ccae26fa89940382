"""The plan of a pruner for one model: its parts resolved, and every check that needs nothing built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import LBFGS, Optimizer

from lightning_dynprune.base import name_some
from lightning_dynprune.calibration import InputCapture
from lightning_dynprune.engine.attachment import check_not_owned
from lightning_dynprune.engine.exchange_count import warn_if_few_exchanges
from lightning_dynprune.engine.gradients import check_gradients
from lightning_dynprune.engine.settings import Settings
from lightning_dynprune.engine.sharding_limits import check_no_flat_parameters, check_supports_sharding
from lightning_dynprune.engine.updates import check_reachable
from lightning_dynprune.masks import KEEPS_SQUARED_GRADIENTS, optimizer_holds
from lightning_dynprune.patterns import Pattern, TargetPattern, check_units
from lightning_dynprune.schedules import Clock, Horizon, Schedule, resolve_settings, sparsity_schedule
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import Target, find_targets, unwrapped_model, unwrapped_optimizers
from lightning_dynprune.thresholds import Threshold


@dataclass(frozen=True)
class Plan:
    """The parts and targets of a pruner for one model, with every setting checked against that model.

    Attributes:
        model: the network, unwrapped.
        settings: as the user gave them.
        targets: the parameters that are pruned.
        strategy: scores connections; its schedules are counted in steps or epochs.
        threshold: decides the cut; likewise.
        pattern: the unit that is kept or pruned together.
        schedule: of the sparsity; likewise.
        optimizers: of the model, unwrapped.
        trained_by: for each optimizer the positions of the targets that it trains.
    """

    model: nn.Module
    settings: Settings
    targets: list[Target]
    strategy: Strategy
    threshold: Threshold
    pattern: Pattern
    schedule: Schedule
    optimizers: list[Optimizer]
    trained_by: list[list[int]]

    @classmethod
    def of(
        cls,
        settings: Settings,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer] | None,
        horizon: Horizon,
    ) -> Plan:
        """Find the targets of a model, resolve all parts and check every setting.

        Args:
            settings: of the pruner.
            model: the network, which may be wrapped.
            optimizer: the optimizer or optimizers that train it.
            horizon: the length of training.

        Raises:
            TypeError: a setting of the wrong kind.
            ValueError: a setting that cannot work with this model, its optimizers or the length of training.
        """
        model = unwrapped_model(model)
        check_no_flat_parameters(model)
        targets = find_targets(model, settings.targets, settings.exclude, settings.min_kept)
        check_not_owned(targets)
        threshold = resolve_settings(settings.threshold, horizon)
        optimizers = unwrapped_optimizers(optimizer)
        plan = cls(
            model,
            settings,
            targets,
            resolve_settings(settings.strategy, horizon),
            threshold,
            settings.pattern,
            _schedule_of(settings, targets, threshold, horizon),
            optimizers,
            [[i for i, target in enumerate(targets) if optimizer_holds(o, {target.parameter})] for o in optimizers],
        )
        plan._check()
        warn_if_few_exchanges(plan.strategy, plan.schedule, horizon, stacklevel=3)
        return plan

    @property
    def training_optimizers(self) -> list[Optimizer]:
        """The optimizers that train a target."""
        return [o for o, positions in zip(self.optimizers, self.trained_by, strict=True) if positions]

    @property
    def reads_last_gradients(self) -> bool:
        """Whether an update reads the gradients of the step before it, and none of earlier steps."""
        return self.strategy.needs_gradients and not self.strategy.accumulates

    @property
    def needs_hooks(self) -> bool:
        """Whether the steps of the optimizers have to be watched."""
        return (
            self.strategy.accumulates
            or self.strategy.latent
            or self.strategy.needs_gradients
            or self.schedule.is_due_at_start(Clock())
            or any(isinstance(optimizer, LBFGS) for optimizer in self.training_optimizers)
        )

    def _check(self) -> None:
        """Raise where parts do not go together, or not with the model."""
        settings = self.settings
        self.pattern.check(self.targets, self.strategy, self.threshold, self.schedule)
        if isinstance(self.pattern, TargetPattern):
            check_units(self.targets, self.pattern)
        self._check_optimizers()
        check_gradients(self.targets, self.strategy, self.trained_by)
        if self.threshold.exact and not self.pattern.coupled:
            check_reachable(self.targets, self.pattern, self.schedule.final)
        check_supports_sharding(
            self.targets,
            self.pattern,
            self.strategy,
            settings.reconstruct,
            settings.rewind,
            settings.journal is not None and bool(settings.journal.get("remember_values")),
        )
        if self.strategy.needs_activations or settings.reconstruct:
            # Raises where the inputs of a target cannot be captured.
            InputCapture(self.model, self.targets, lambda position, rows: None)

    def _check_optimizers(self) -> None:
        strategy = type(self.strategy).__name__
        if self.strategy.needs_squared_gradients:
            self._check_squared_gradients(strategy)
        if (self.strategy.accumulates or self.strategy.latent) and not self.optimizers:
            raise ValueError(
                f"strategy={strategy} watches every step, so it needs the optimizer; "
                "give it as Pruner(model, optimizer), or give strategy='magnitude', which needs none"
            )
        if self.strategy.latent and any(isinstance(optimizer, LBFGS) for optimizer in self.training_optimizers):
            raise ValueError(
                f"strategy={strategy} keeps latent weights, which LBFGS cannot train: it estimates the curvature from "
                "gradients taken at w * m, but moves w by it; give another optimizer, or a strategy with hard masks"
            )

    def _check_squared_gradients(self, strategy: str) -> None:
        """Raise unless the optimizers keep averages of all targets by the time the first update reads them."""
        keeps = ", ".join(kind.__name__ for kind in KEEPS_SQUARED_GRADIENTS)
        with_average = {
            position
            for optimizer, positions in zip(self.optimizers, self.trained_by, strict=True)
            if isinstance(optimizer, KEEPS_SQUARED_GRADIENTS)
            for position in positions
        }
        without = [target.name for i, target in enumerate(self.targets) if i not in with_average]
        if without:
            given = ", ".join(sorted({type(optimizer).__name__ for optimizer in self.optimizers})) or "none"
            raise ValueError(
                f"strategy={strategy} reads the running average of squared gradients that {keeps} keep; optimizer="
                f"{given} keeps none for {name_some(without)}; give one of these, or strategy='taylor'"
            )
        if self.schedule.is_due_at_start(Clock()) or (self.schedule.span is not None and self.schedule.span.begin == 0):
            raise ValueError(
                f"strategy={strategy} reads averages that exist after the first step, and the schedule begins at 0; "
                "give a later begin"
            )


def _schedule_of(settings: Settings, targets: Sequence[Target], threshold: Threshold, horizon: Horizon) -> Schedule:
    """Return the schedule of the sparsity; the pattern or the targets may decide its final value."""
    final = settings.pattern.final_sparsity(targets, threshold.final_sparsity(targets, settings.sparsity))
    schedule = sparsity_schedule(settings.schedule, final).resolve(horizon)
    settings.pattern.final_sparsity(targets, schedule.final)
    return schedule
