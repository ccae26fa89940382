"""The figures of updates as columns: how a state holds them, and how they are read back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_dynprune.journal.update import Update, read_update

_SHARES = ("scheduled_sparsity", "sparsity", "churn")
_COUNTS = ("dropped", "grown")
_COLUMNS = ("step", *_SHARES, *_COUNTS, "cuts", "has_cut")
_DTYPES = {"step": torch.int64, "dropped": torch.int64, "grown": torch.int64, "has_cut": torch.bool}
_AT_ONCE = 256  # updates


@dataclass(frozen=True, eq=False)
class Figures:
    """The figures of some updates, oldest first, a column each; :class:`Update` says what they are.

    As objects they would take ten times the memory of their file.

    Args:
        names: of the targets.
        columns: step: int64 ``(updates,)``; the shares: float64 ``(updates,)``; dropped and grown: int64
            ``(updates, targets)``; cuts: float64 ``(updates, targets)``, 0 where a target has none; has_cut: bool
            ``(updates, targets)``.
    """

    names: tuple[str, ...]
    columns: Mapping[str, Tensor]

    @classmethod
    def of(cls, updates: Sequence[Update], names: Sequence[str]) -> Figures:
        """Return the figures of updates.

        Args:
            updates: oldest first.
            names: of the targets.
        """
        columns = {"step": torch.tensor([update.step for update in updates], dtype=torch.int64)}
        for key in _SHARES:
            columns[key] = torch.tensor([getattr(update, key) for update in updates], dtype=torch.float64)
        for key in _COUNTS:
            rows = [[getattr(update, key)[name] for name in names] for update in updates]
            columns[key] = torch.tensor(rows, dtype=torch.int64).view(-1, len(names))
        cuts = [[update.cuts.get(name, 0.0) for name in names] for update in updates]
        has_cut = [[name in update.cuts for name in names] for update in updates]
        columns["cuts"] = torch.tensor(cuts, dtype=torch.float64).view(-1, len(names))
        columns["has_cut"] = torch.tensor(has_cut, dtype=torch.bool).view(-1, len(names))
        return cls(tuple(names), columns)

    def __len__(self) -> int:
        return len(self.columns["step"])

    def updates(self, first: int) -> list[Update]:
        """Return the updates from a number on."""
        lists = (self.columns[key][first:].tolist() for key in ("step", *_SHARES))
        found = []
        for number, (step, scheduled, sparsity, churn) in enumerate(zip(*lists, strict=True), first):
            dropped, grown, cuts, has_cut = (
                dict(zip(self.names, self.columns[key][number].tolist(), strict=True))
                for key in (*_COUNTS, "cuts", "has_cut")
            )
            cuts = {name: cut for name, cut in cuts.items() if has_cut[name]}
            found.append(Update(step, scheduled, sparsity, dropped, grown, churn, cuts))
        return found

    def last(self, count: int) -> Figures:
        """Return the figures of the last updates."""
        return Figures(self.names, {key: column[len(self) - count :] for key, column in self.columns.items()})


def read_figures(entry: Any, sizes: Mapping[str, int]) -> Figures:
    """Return figures from the columns of a state, after checking every one.

    Args:
        entry: the columns, read from a file that is not trusted.
        sizes: number of connections of each target, by name.

    Raises:
        ValueError: a column is missing, of another type or shape, or a figure is out of range.
    """
    if not isinstance(entry, Mapping) or set(entry) != set(_COLUMNS):
        raise ValueError(f"journal: 'updates' does not hold the figures {sorted(_COLUMNS)}; the file is damaged")
    count = len(entry["step"]) if isinstance(entry["step"], Tensor) and entry["step"].dim() == 1 else 0
    for key in _COLUMNS:
        dtype = _DTYPES.get(key, torch.float64)
        shape = (count,) if key in ("step", *_SHARES) else (count, len(sizes))
        column = entry[key]
        # A sparse or expanded tensor may claim far more entries than its file holds.
        is_plain = isinstance(column, Tensor) and column.layout == torch.strided and column.is_contiguous()
        if not is_plain or column.is_meta or column.dtype != dtype or column.shape != shape:
            raise ValueError(f"journal: {key} of the updates is no {dtype} of shape {shape}; the file is damaged")
    columns = {key: column.cpu() for key, column in entry.items()}
    most = torch.tensor(list(sizes.values()), dtype=torch.int64)
    for key in ("step", *_SHARES, *_COUNTS):
        column = columns[key]
        wrong = ~(column >= 0) | (column == math.inf) if key in _SHARES else column < 0
        if key in _COUNTS:
            wrong |= column > most
        if wrong.any():
            number, *target = wrong.nonzero()[0].tolist()
            where = f"journal: update {number}: {key}"
            value = column[(number, *target)].item()
            if target:
                name = list(sizes)[target[0]]
                raise ValueError(f"{where} of {name} is {value}; it has {sizes[name]} connections")
            expected = "number" if key in _SHARES else "whole number"
            raise ValueError(f"{where}={value} is not a {expected} of at least 0")
    return Figures(tuple(sizes), columns)


def figures_of_version_2(entries: Any, sizes: Mapping[str, int]) -> Figures:
    """Return figures from the list of mappings that a state of version 2 holds, after checking every one.

    Args:
        entries: the list, read from a file that is not trusted.
        sizes: number of connections of each target, by name.

    Raises:
        ValueError: it is no list, or a figure is missing, of another type or out of range.
    """
    if not isinstance(entries, list):
        raise ValueError("journal: 'updates' is not a list; the file is damaged")
    names, parts = tuple(sizes), [Figures.of([], tuple(sizes)).columns]
    # In parts, as all of them as objects would take several times the memory of the mappings.
    for start in range(0, len(entries), _AT_ONCE):
        part = enumerate(entries[start : start + _AT_ONCE], start)
        updates = [read_update(entry, sizes, f"journal: update {number}") for number, entry in part]
        parts.append(Figures.of(updates, names).columns)
    return Figures(names, {key: torch.cat([part[key] for part in parts]) for key in _COLUMNS})
