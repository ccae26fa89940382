"""The settings of a pruner, with named parts built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_dynprune.base import check_count, check_flag, check_share, check_whole, is_whole, to_python
from lightning_dynprune.patterns import PATTERNS, Pattern
from lightning_dynprune.schedules import Schedule, sparsity_schedule
from lightning_dynprune.strategies import STRATEGIES, Strategy, with_default
from lightning_dynprune.targets import Selector, Targets
from lightning_dynprune.thresholds import THRESHOLDS, Threshold

_JOURNAL_SETTINGS = ("remember_values", "cap", "longest")


@dataclass(frozen=True)
class Settings:
    """The settings of a pruner, as far as they can be checked without a model.

    Attributes:
        sparsity: share of connections to end at, in [0, 1); None where the schedule, pattern or targets give it.
        strategy: scores connections.
        threshold: decides the cut.
        schedule: the schedule of the sparsity; as it was given where the final sparsity depends on the model.
        pattern: the unit that is kept or pruned together.
        targets: selects parameters, see :func:`~lightning_dynprune.targets.find_targets`.
        exclude: globs and types never pruned.
        min_kept: connections that every target keeps, at least.
        reconstruct: whether kept weights are refitted at each cut.
        rewind: optimizer steps after which the model is copied, to be put back at every later update; None: never.
        journal: settings of the journal; None: no journal.
        seed: of random strategies.

    Example:
        >>> settings = Settings.build(sparsity=0.9, strategy="magnitude")
        >>> settings.strategy, settings.final_sparsity
        (Magnitude(norm=1), 0.9)
    """

    sparsity: float | None
    strategy: Strategy
    threshold: Threshold
    schedule: str | Schedule | Mapping[str, Any]
    pattern: Pattern
    targets: Targets
    exclude: Selector | Sequence[Selector]
    min_kept: int
    reconstruct: bool
    rewind: int | None
    journal: Mapping[str, Any] | None
    seed: int

    @classmethod
    def build(
        cls,
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
    ) -> Settings:
        """Return the settings with named parts built and all values checked.

        Args: as of :class:`~lightning_dynprune.engine.pruner.Pruner`.

        Raises:
            TypeError: a setting of the wrong kind.
            ValueError: a setting out of range, an unknown name, or settings that exclude each other.
        """
        sparsity = None if sparsity is None else check_share("sparsity", sparsity)
        built_strategy = STRATEGIES.build(strategy)
        built_threshold = THRESHOLDS.build(with_default("threshold", threshold, built_strategy.threshold))
        built_pattern = PATTERNS.build(pattern)
        schedule = with_default("schedule", schedule, built_strategy.schedule)
        # The pattern, or sparsities of single targets, may decide the final sparsity, which then depends on the model.
        needs_model = built_pattern.sets_sparsity or isinstance(targets, Mapping)
        built_schedule = None if needs_model and sparsity is None else sparsity_schedule(schedule, sparsity)
        return cls(
            sparsity=sparsity,
            strategy=built_strategy,
            threshold=built_threshold,
            schedule=schedule if needs_model or built_schedule is None else built_schedule,
            pattern=built_pattern,
            targets=targets,
            exclude=exclude,
            min_kept=check_count("min_kept", min_kept),
            reconstruct=check_flag("reconstruct", reconstruct),
            rewind=_checked_rewind(rewind, built_strategy),
            journal=_checked_journal(journal),
            seed=check_whole("seed", seed),
        )

    def arguments(self) -> dict[str, Any]:
        """Return the settings as keyword arguments of :class:`~lightning_dynprune.engine.pruner.Pruner`."""
        return dict(vars(self))

    @property
    def final_sparsity(self) -> float | None:
        """The share of connections to end at, where it does not depend on the model; None elsewhere."""
        return self.schedule.final if isinstance(self.schedule, Schedule) else self.sparsity


def _checked_rewind(step: int | None, strategy: Strategy) -> int | None:
    if step is None:
        return None
    if not is_whole(step) or step < 0:
        raise ValueError(f"rewind={step!r} is not accepted; give a number of optimizer steps, 0 or more")
    if strategy.latent:
        raise ValueError(
            f"rewind={step} does not go with strategy={type(strategy).__name__}, whose latent weights train "
            "on behind the mask; use a strategy with hard masks"
        )
    return int(step)


def _checked_journal(given: bool | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the journal's settings; None where it is off."""
    given = to_python(given)
    if given is True:
        return {}
    if given is False or given is None:
        return None
    if not isinstance(given, Mapping) or not set(given) <= set(_JOURNAL_SETTINGS):
        raise ValueError(
            f"journal={given!r} is not accepted; give True, False or a mapping with 'remember_values', 'cap' and "
            "'longest'"
        )
    return given
