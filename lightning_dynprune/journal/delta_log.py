"""The recorded deltas of the last updates, with the memory they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from lightning_dynprune.journal.delta import ENCODINGS, Delta, as_tensor
from lightning_dynprune.journal.packed_rows import FIGURES, PackedRows

Row = Sequence[Delta]


class DeltaLog:
    """A list of rows of deltas, one row per update, oldest first; one delta per target in a row.

    Rows that were read from a state stay packed; those of later updates follow.

    Args:
        packed: rows that were read.

    Attributes:
        num_bytes: bytes that the encoded positions take.
    """

    def __init__(self, packed: PackedRows | None = None) -> None:
        self._packed = packed
        self._rows: list[Row] = []
        self.num_bytes = 0 if packed is None else packed.positions.numel()

    def __len__(self) -> int:
        return self._num_packed + len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return chain(self._packed or (), self._rows)

    @property
    def _num_packed(self) -> int:
        return 0 if self._packed is None else len(self._packed)

    def with_row(self, deltas: Row) -> DeltaLog:
        """Return a log with the deltas of one more update; this one stays as it is."""
        log = DeltaLog(self._packed)
        log._rows, log.num_bytes = [*self._rows, tuple(deltas)], self.num_bytes + _size(deltas)
        return log

    def last(self, count: int) -> list[Row]:
        """Return the last ``count`` rows."""
        return list(self)[len(self) - count :]

    def copy_packed(self) -> None:
        """Let the rows that were read no longer share memory with the state that they were read from."""
        self._packed = None if self._packed is None else self._packed.copied()

    def drop_oldest(self, count: int) -> None:
        """Remove the first ``count`` rows; none if the count is not positive."""
        if count <= 0:
            return
        if count < self._num_packed:
            self._packed = self._packed and self._packed.without_first(count)
        else:
            del self._rows[: count - self._num_packed]
            self._packed = None
        self.num_bytes = sum(map(_size, self._rows))
        self.num_bytes += 0 if self._packed is None else self._packed.positions.numel()

    def drop_past(self, max_bits: float) -> None:
        """Remove the first rows until the positions take at most ``max_bits``."""
        left, count = self.num_bytes, 0
        packed = () if self._packed is None else map(int, self._packed.row_bytes())
        for size in chain(packed, map(_size, self._rows)):
            if 8 * left <= max_bits:
                break
            left, count = left - size, count + 1
        self.drop_oldest(count)

    def figures(self) -> Tensor:
        """Return bytes, flips, number of the encoding, and whether it is deflated, of each delta: int64."""
        rows = [
            [len(delta.data), delta.flipped, ENCODINGS.index(delta.encoding), delta.deflated]
            for row in self._rows
            for delta in row
        ]
        found = torch.tensor(rows, dtype=torch.int64).view(-1, FIGURES)
        return found if self._packed is None else torch.cat([self._packed.figures, found])

    def positions(self) -> Tensor:
        """Return a copy of the encoded positions of all deltas, one after the other: uint8."""
        found = as_tensor(b"".join(delta.data for row in self._rows for delta in row))
        return found if self._packed is None else torch.cat([self._packed.positions, found])

    def values(self, num_targets: int) -> tuple[int, list[Tensor]]:
        """Return how many of the last rows have values, and the values of each target; none where there are no rows."""
        rows = [row for row in self._rows if all(delta.values is not None for delta in row)]
        packed = None if self._packed is None or not self._packed.values else self._packed
        valued = len(rows) + (0 if packed is None else len(packed.num_values))
        found: list[Tensor] = []
        for position in range(num_targets if valued else 0):
            own = [] if packed is None else [packed.values[position]]
            found.append(torch.cat([*own, *(v for row in rows if (v := row[position].values) is not None)]))
        return valued, found


def _size(deltas: Row) -> int:
    return sum(len(delta.data) for delta in deltas)
