"""Slimming in a fit: pruned units are taken out of the model at every update, or at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_dynprune.callback.clipping import Handle
from lightning_dynprune.callback.example_input import example_input_of, input_of_batch
from lightning_dynprune.callback.trainer_batches import training_batches
from lightning_dynprune.coupling import SlimError
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
        self._has_ended = False
        self._original_numel: dict[nn.Parameter, int] = {}
        self._load_hook: Handle | None = None
        self._example: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_load_hook": None, "_example": None}

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
        self._example, self._has_ended = None, False
        if self.when == "update" and trainer.world_size > 1:
            rank_zero_warn(f"slim='update': with {trainer.world_size} processes the model is slimmed at the end only")
            self.when = "end"

    def prepare(self, pruner: Pruner, module: LightningModule, given: Any, batch: Any) -> None:
        """Check at the first batch that units can be removed, on the example that the slim model is compared on.

        Args:
            pruner: of the fit.
            module: is trained.
            given: the setting ``example_input``; None: the module's, or the input in the batch.
            batch: as the module gets it.

        Raises:
            CouplingError: the module does not run on the example, or not with fewer heads.
        """
        if self.when is None or self._example is not None:
            return
        example = example_input_of(module, given)
        self._example = input_of_batch(batch) if example is None else example
        with pruner.ranks.raise_together():
            try:
                pruner.check_slim(self._example)
            except ValueError as error:
                raise type(error)(
                    f"slim={self.when!r} compares the outputs of the slim model on an example: {error}; or leave slim "
                    "out, which keeps the pruned units as zeros"
                ) from error

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
            self._slim(pruner)

    def at_end(self, pruner: Pruner) -> None:
        """Take out all pruned units, with ``when="end"``; warn, and leave all as it is, if the outputs would change."""
        if self.when == "end" and not pruner.needs_coupling:
            changed = self._slim(pruner)
            if changed is not None:
                widths = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in changed.items())
                rank_zero_info(f"dynprune: slimmed, {widths}")
        self._example, self._has_ended = None, True

    def at_end_without_steps(self, pruner: Pruner, trainer: Trainer, module: LightningModule, given: Any) -> None:
        """Take out all pruned units when a fit has ended that was resumed with no step left.

        Args:
            pruner: of the fit.
            trainer: in ``on_fit_end``.
            module: was to be trained.
            given: the setting ``example_input``.
        """
        if self.when != "end" or self._has_ended or trainer.train_dataloader is None:
            return
        batch = move_data_to_device(next(iter(training_batches(trainer, None))), module.device)
        if pruner.needs_coupling:
            pruner.couple(input_of_batch(batch))
        self.prepare(pruner, module, given, batch)
        self.at_end(pruner)

    def _slim(self, pruner: Pruner) -> dict[str, tuple[int, int]] | None:
        """Return what was taken out; None, with a warning, where the outputs would have changed."""
        try:
            return pruner.slim(self._example)
        except SlimError as error:
            rank_zero_warn(f"slim={self.when!r}: the model was not slimmed: {error}")
            return None

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
