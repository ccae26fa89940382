"""The data that the table and the figure of a journal show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_dynprune.journal.update import Update


@dataclass(frozen=True)
class Overview:
    """The content of a journal as plain values.

    Args:
        updates: the recorded updates, oldest first.
        count: number of updates made, those included that are no longer recorded.
        notes: decisions in words, each with its optimizer step.
        sizes: connections of each target, by name.
        kept: connections of each target that are kept now, by name.
        total: connections of all targets, those included that slimming has removed.
    """

    updates: Sequence[Update]
    count: int
    notes: Sequence[tuple[int, str]]
    sizes: Mapping[str, int]
    kept: Mapping[str, int]
    total: int

    @property
    def headline(self) -> str:
        """The number of updates, with its noun."""
        return f"{self.count} update{'' if self.count == 1 else 's'}"

    def kept_over_time(self) -> dict[str, list[int]]:
        """Return each target's kept connections before the first recorded update and after each one, by name.

        They are computed backwards, from the connections kept now.
        """
        histories = {}
        for name, now in self.kept.items():
            history = [now]
            for update in reversed(self.updates):
                history.append(history[-1] + update.dropped[name] - update.grown[name])
            histories[name] = history[::-1]
        return histories
