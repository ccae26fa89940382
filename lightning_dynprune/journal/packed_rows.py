"""Rows of deltas as a checkpoint holds them: a few large tensors, of which a delta is read when it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightning_dynprune.journal.delta import ENCODINGS, Delta

FIGURES = 4  # of a delta: bytes, flips, number of the encoding, 1 if deflated


class PackedRows:
    """Rows of deltas, one row per update, oldest first; they take little more memory than in a file.

    As objects the deltas of many small updates would take several times the memory of their file.

    Args:
        figures: int64 ``(rows * targets, 4)`` on the CPU: bytes, flips, number of the encoding, 1 if deflated.
        positions: the encoded positions of all deltas one after the other, uint8, on the CPU.
        sizes: number of connections of each target, at least one target.
        held: number of rows that the memory of the tensors holds; None if it is that of these rows.

    Attributes:
        figures: as given.
        positions: as given.
        sizes: as given.
        values: of the dropped connections of the last rows, a tensor for each target; none if they are not recorded.
        num_values: int64 ``(rows with values, targets)``: how many of the values belong to each delta.

    Example:
        >>> rows = PackedRows(torch.tensor([[1, 1, 0, 0], [2, 2, 0, 0]]), torch.tensor([4, 0, 3]).byte(), (9,))
        >>> len(rows), [list(row[0].data) for row in rows]
        (2, [[4], [0, 3]])
    """

    def __init__(self, figures: Tensor, positions: Tensor, sizes: tuple[int, ...], held: int | None = None) -> None:
        self.figures, self.positions, self.sizes = figures, positions, sizes
        self.values: tuple[Tensor, ...] = ()
        self.num_values = torch.zeros(0, len(sizes), dtype=torch.int64)
        self._held = len(self) if held is None else held
        self._ends = figures[:, 0].cumsum(0).numpy()
        self._value_ends = self.num_values.numpy()

    def __len__(self) -> int:
        return len(self.figures) // len(self.sizes)

    def __iter__(self) -> Iterator[Sequence[Delta]]:
        return (PackedRow(self, number) for number in range(len(self)))

    def with_values(self, values: tuple[Tensor, ...], num_values: Tensor) -> PackedRows:
        """Return these rows with the values of dropped connections.

        Args:
            values: of the last rows, a tensor for each target.
            num_values: how many of them belong to each delta: int64 ``(rows with values, targets)``.
        """
        rows = PackedRows(self.figures, self.positions, self.sizes, self._held)
        rows.values, rows.num_values = values, num_values
        rows._value_ends = num_values.cumsum(0).numpy()
        return rows

    def delta(self, row: int, position: int) -> Delta:
        """Return the delta of one target.

        Args:
            row: number of the update.
            position: index of the target.
        """
        number = row * len(self.sizes) + position
        length, flipped, encoding, deflated = self.figures.numpy()[number].tolist()
        end = int(self._ends[number])
        data = self.positions.numpy()[end - length : end].tobytes()
        values, valued = None, row - (len(self) - len(self.num_values))
        if self.values and valued >= 0:
            end = int(self._value_ends[valued, position])
            values = self.values[position][end - int(self.num_values[valued, position]) : end]
        return Delta(ENCODINGS[encoding], bool(deflated), data, self.sizes[position], flipped, values)

    def row_bytes(self) -> Tensor:
        """Return the bytes that the positions of each row take."""
        return self.figures[:, 0].view(-1, len(self.sizes)).sum(1)

    def without_first(self, count: int) -> PackedRows:
        """Return the rows without the first ``count``; copied where those hold more than half of the memory."""
        first = count * len(self.sizes)
        start = int(self.figures[:first, 0].sum())
        rows = PackedRows(self.figures[first:], self.positions[start:], self.sizes, self._held)
        if self.values:
            gone = max(0, count - (len(self) - len(self.num_values)))
            starts = self.num_values[:gone].sum(0).tolist()
            values = tuple(tensor[begin:] for tensor, begin in zip(self.values, starts, strict=True))
            rows = rows.with_values(values, self.num_values[gone:])
        return rows.copied() if 2 * len(rows) < self._held else rows

    def copied(self) -> PackedRows:
        """Return the same rows in memory of their own."""
        rows = PackedRows(self.figures.clone(), self.positions.clone(), self.sizes)
        return rows.with_values(tuple(v.clone() for v in self.values), self.num_values.clone()) if self.values else rows


class PackedRow(Sequence[Delta]):
    """One row, whose deltas are made when they are asked for.

    Args:
        rows: all rows.
        number: of this one.
    """

    __slots__ = ("_number", "_rows")

    def __init__(self, rows: PackedRows, number: int) -> None:
        self._rows, self._number = rows, number

    def __len__(self) -> int:
        return len(self._rows.sizes)

    def __getitem__(self, position: int) -> Delta:  # type: ignore[override]
        if not 0 <= position < len(self):
            raise IndexError(f"target {position} of {len(self)}")
        return self._rows.delta(self._number, position)
