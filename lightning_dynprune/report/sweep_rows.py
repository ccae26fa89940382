"""The jobs of a sweep as rows, their axes, and jobs that differ in the seed alone as one row."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SEED = "seed"


@dataclass(frozen=True)
class SweepRow:
    """One job of a sweep.

    Args:
        job: name of the job's folder in the sweep's folder.
        overrides: the job's overrides.
        results: the content of its ``results.json``; ``None`` for a failed job.
        error: why it failed; ``None`` for a job that has finished or is not done.
        started: whether the job has been started; its results and its error are ``None`` while it is not done.
    """

    job: str
    overrides: Sequence[str]
    results: Mapping[str, Any] | None = None
    error: str | None = None
    started: bool = True

    @property
    def is_left(self) -> bool:
        """Whether the job has neither finished nor failed."""
        return self.results is None and self.error is None

    @property
    def state(self) -> str:
        """``finished``, ``failed: ...`` with the error, ``not finished`` or ``not started``."""
        if self.results is not None:
            return "finished"
        if self.error is not None:
            return f"failed: {self.error}"
        return "not finished" if self.started else "not started"

    @property
    def settings(self) -> dict[str, str]:
        """The values of the job's overrides, by setting."""
        pairs = (text.lstrip("+").partition("=") for text in self.overrides)
        return {key: value for key, _, value in pairs}


@dataclass(frozen=True)
class Pooled:
    """Jobs of a sweep that differ in nothing but the seed.

    Args:
        rows: the jobs.
    """

    rows: Sequence[SweepRow]

    @property
    def finished(self) -> list[SweepRow]:
        """The jobs with results."""
        return [row for row in self.rows if row.results is not None]

    def mean_and_spread(self, figure: str) -> tuple[float, float] | None:
        """Return the mean of a figure over the finished jobs, and its standard deviation, 0 for a single job.

        Args:
            figure: name in ``results.json``.

        Returns:
            None if no job has the figure.
        """
        values = [row.results[figure] for row in self.finished if row.results and row.results.get(figure) is not None]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def per_input_figures(row: SweepRow) -> Mapping[str, Any]:
    """Return the figures of a job's per-input pruning; empty without it."""
    adaptive = None if row.results is None else row.results.get("adaptive")
    return {} if adaptive is None else adaptive["figures"]


def axes(rows: Sequence[SweepRow]) -> list[str]:
    """Return the settings that the jobs' overrides give, in their order.

    Example:
        >>> axes([SweepRow("0", ["sparsity=0.5", "seed=0"]), SweepRow("1", ["sparsity=0.9", "+mine=1"])])
        ['sparsity', 'seed', 'mine']
    """
    return list(dict.fromkeys(key for row in rows for key in row.settings))


def pool_seeds(rows: Sequence[SweepRow]) -> list[Pooled]:
    """Return the jobs grouped by all their settings but the seed, in the order of their first jobs.

    Example:
        >>> rows = [SweepRow(str(n), ["sparsity=0.5", f"seed={n}"]) for n in range(2)]
        >>> [len(pooled.rows) for pooled in pool_seeds(rows)]
        [2]
    """
    groups: dict[tuple[tuple[str, str], ...], list[SweepRow]] = {}
    for row in rows:
        settings = tuple((key, value) for key, value in row.settings.items() if key != SEED)
        groups.setdefault(settings, []).append(row)
    return [Pooled(group) for group in groups.values()]
