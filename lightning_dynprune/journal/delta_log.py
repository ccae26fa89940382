"""The recorded deltas of the last updates, with the memory they take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lightning_dynprune.journal.delta import Delta


class DeltaLog:
    """A list of rows of deltas, one row per update, oldest first; one delta per target in a row.

    Attributes:
        rows: the rows.
        num_bytes: bytes that the encoded positions take.
    """

    def __init__(self, rows: Iterable[tuple[Delta, ...]] = ()) -> None:
        self.rows = list(rows)
        self.num_bytes = sum(map(_size, self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Delta, ...]]:
        return iter(self.rows)

    def with_row(self, deltas: Sequence[Delta]) -> DeltaLog:
        """Return a log with the deltas of one more update; this one stays as it is."""
        log = DeltaLog()
        log.rows, log.num_bytes = [*self.rows, tuple(deltas)], self.num_bytes + _size(deltas)
        return log

    def last(self, count: int) -> list[tuple[Delta, ...]]:
        """Return the last ``count`` rows."""
        return self.rows[len(self.rows) - count :]

    def drop_oldest(self, count: int) -> None:
        """Remove the first ``count`` rows; none if the count is not positive."""
        for deltas in self.rows[: max(count, 0)]:
            self.num_bytes -= _size(deltas)
        del self.rows[: max(count, 0)]

    def drop_past(self, max_bits: float) -> None:
        """Remove the first rows until the positions take at most ``max_bits``."""
        while 8 * self.num_bytes > max_bits:
            self.drop_oldest(1)


def _size(deltas: Sequence[Delta]) -> int:
    return sum(len(delta.data) for delta in deltas)
