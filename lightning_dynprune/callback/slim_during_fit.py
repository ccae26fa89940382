"""Slimming in a fit: pruned units are taken out of the model at every update, or at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_dynprune.callback.clipping import Handle
from lightning_dynprune.engine import AccuracyGuard, Pruner, fit_to
from lightning_dynprune.journal import Update
from lightning_dynprune.patterns import Pattern

# Setting ``slim`` -> patterns whose units can be taken out then.
PATTERNS_THAT_SLIM = {"end": ("channel", "head"), "update": ("channel",)}


class SlimDuringFit:
    """Takes pruned units out of the model during a fit or at its end.

    Args:
        when: "end", "update" or None: never.
        pattern: of the pruning.
        guard: of the pruning, if there is one.
        rewind: setting of the pruning.

    Raises:
        ValueError: an unknown ``when``, or one that does not go with another setting.

    Attributes:
        when: as given; "end" instead of "update" once several processes train the model.
    """

    def __init__(self, when: str | None, pattern: Pattern, guard: AccuracyGuard | None, rewind: int | None) -> None:
        check_slim(when, pattern, guard, rewind)
        self.when = when
        self._original_numel: dict[nn.Parameter, int] = {}
        self._load_hook: Handle | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_load_hook": None}

    def setup(self, module: LightningModule) -> None:
        """Let weights of a slimmed model be loaded into one that has not been slimmed, until :meth:`begin`.

        Args:
            module: in ``setup`` of a fit.
        """
        if self.when == "update":
            # Entries that an earlier fit took out of these very parameters still count.
            self._original_numel = {p: self._original_numel.get(p, p.numel()) for p in module.parameters()}
            hook = module.register_load_state_dict_pre_hook(_fit_to_state)  # type: ignore[no-untyped-call]
            self._load_hook = hook

    def begin(self, trainer: Trainer) -> None:
        """Refuse other shapes again, and slim at the end only if there are several processes."""
        self.remove_hook()
        if self.when == "update" and trainer.world_size > 1:
            rank_zero_warn(f"slim='update': with {trainer.world_size} processes the model is slimmed at the end only")
            self.when = "end"

    def remove_hook(self) -> None:
        """Refuse weights of other shapes again."""
        if self._load_hook is not None:
            self._load_hook.remove()
            self._load_hook = None

    def after_update(self, pruner: Pruner, update: Update | None) -> None:
        """Take out the units that an update pruned, with ``when="update"``.

        Args:
            pruner: of the fit.
            update: the update, or None if none was due.
        """
        if self.when == "update" and update is not None:
            pruner.slim()

    def at_end(self, pruner: Pruner) -> None:
        """Take out all pruned units, with ``when="end"``."""
        if self.when == "end" and not pruner.needs_coupling:
            widths = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in pruner.slim().items())
            rank_zero_info(f"dynprune: slimmed, {widths}")

    def removed_from(self, module: LightningModule) -> int:
        """Return how many entries were taken out of a module's parameters, with ``when="update"``."""
        if not self._original_numel:
            return 0
        return sum(self._original_numel.values()) - sum(p.numel() for p in module.parameters())


def check_slim(when: str | None, pattern: Pattern, guard: AccuracyGuard | None, rewind: int | None) -> None:
    """Raise if the setting ``slim`` is unknown or does not go with the others.

    Args:
        when: the setting.
        pattern: of the pruning.
        guard: of the pruning, if there is one.
        rewind: setting of the pruning.

    Raises:
        ValueError: naming both settings.
    """
    if when is None:
        return
    if not isinstance(when, str) or when not in PATTERNS_THAT_SLIM:
        raise ValueError(f"slim={when!r} is unknown; known: None, {', '.join(map(repr, PATTERNS_THAT_SLIM))}")
    if pattern.label not in PATTERNS_THAT_SLIM[when]:
        raise ValueError(
            f"slim={when!r} goes with pattern {' or '.join(PATTERNS_THAT_SLIM[when])}, not {pattern.label}; where "
            "other patterns left whole channels of zeros, lightning_dynprune.deploy.slim makes the model "
            "smaller after training"
        )
    if rewind is not None or (when == "update" and guard is not None):
        other = "rewind" if rewind is not None else "a guard"
        raise ValueError(
            f"slim={when!r} does not go with {other}, which restores entries that are removed by then; leave one of "
            "them out"
        )


def _fit_to_state(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
    """Give a module the smaller shapes of the weights that are being loaded into it."""
    fit_to(module, {name.removeprefix(prefix): tensor for name, tensor in state.items()})
