"""Measure, when a fit begins, the multiples of channels that run fast, where the pattern has ``round_to="auto"``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info

from lightning_dynprune.base import check_count
from lightning_dynprune.callback.example_input import example_input_of
from lightning_dynprune.deploy import measure_width_multiples
from lightning_dynprune.distributed import Ranks
from lightning_dynprune.engine import Settings
from lightning_dynprune.patterns import AUTO, Channel

_KEY = "round_to"
_SECONDS = 4.0


class WidthRounding:
    """Puts a measured multiple in the place of ``round_to="auto"``.

    A run that is resumed takes the multiple of its checkpoint, as another measurement could differ.

    Attributes:
        multiple: what was measured for the last fit; None before, and where ``round_to`` is a number.
    """

    def __init__(self) -> None:
        self.multiple: int | None = None

    def resolve(
        self, settings: Settings, module: LightningModule, given: Any, loaded: Mapping[str, Any] | None
    ) -> Settings:
        """Return settings whose pattern has a number for ``round_to``, the same in all processes.

        Args:
            settings: of the pruning.
            module: is about to be trained.
            given: the setting ``example_input``; None: the module's.
            loaded: state of the checkpoint that the fit continues from; None without one.

        Raises:
            ValueError: no example input is known, or the state holds another value than a number.
        """
        pattern = settings.pattern
        if not isinstance(pattern, Channel) or pattern.round_to != AUTO:
            return settings
        ranks = Ranks(device=module.device)
        with ranks.raise_together():
            if loaded is not None and _KEY in loaded:
                self.multiple = check_count(f"checkpoint: {_KEY}", loaded[_KEY])
            elif self.multiple is None:
                self.multiple = _measured(module, given)
        if ranks.size > 1:
            self.multiple = int(ranks.gather(torch.tensor([self.multiple]))[0])
        return replace(settings, pattern=replace(pattern, round_to=self.multiple))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the multiple that was measured, or nothing."""
        return {} if self.multiple is None else {_KEY: self.multiple}


def _measured(module: LightningModule, given: Any) -> int:
    example = example_input_of(module, given)
    if example is None:
        raise ValueError(
            "pattern channel: round_to='auto' measures the model before the first batch, on an example input; give "
            "example_input, set example_input_array on the module, or give a number such as round_to=8"
        )
    found = measure_width_multiples(module, example, seconds=_SECONDS)
    rank_zero_info(f"dynprune: round_to='auto': {found}")
    return found.multiple
