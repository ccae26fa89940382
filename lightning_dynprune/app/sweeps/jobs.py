"""The jobs of a sweep, read from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning_dynprune.app.runs import REPORTED, read_failure, read_results
from lightning_dynprune.app.sweeps.sweep_record import NAME, SweepRecord
from lightning_dynprune.report import SweepRow

REFUSED = "refused"
_JOB_FILES = ("results.json", "error.json", ".hydra/overrides.yaml")


def read_jobs(folder: Path, ended: bool = True) -> list[SweepRow]:
    """Return one row for each job of a sweep, sorted by the jobs' numbers.

    Args:
        folder: the sweep's folder.
        ended: whether no job runs any more, so that one without results has failed.
    """
    started = {path.parents[name.count("/")] for name in _JOB_FILES for path in folder.glob(f"**/{name}")}
    jobs = _recorded_jobs(folder)
    rows = [_row(job, folder, jobs) for job in started if job.parent.name != REFUSED]
    rows += _not_started(rows, jobs)
    if ended:
        rows = [_as_failed(row) if row.is_left else row for row in rows]
    return sorted(rows, key=lambda row: (not row.job.isdecimal(), int(row.job) if row.job.isdecimal() else 0, row.job))


def _not_started(rows: Sequence[SweepRow], jobs: Sequence[Sequence[str]]) -> list[SweepRow]:
    """Return a row for each recorded job that has none."""
    missing = {str(number): overrides for number, overrides in enumerate(jobs)}
    # A job is known by its number, or else by its overrides, where hydra.sweep.subdir names folders otherwise.
    named = [row for row in rows if missing.pop(row.job, None) is None]
    numbers: dict[tuple[str, ...], list[str]] = {}
    for number, overrides in reversed(missing.items()):
        numbers.setdefault(tuple(overrides), []).append(number)
    for row in named:
        if same := numbers.get(tuple(row.overrides)):
            del missing[same.pop()]
    return [SweepRow(number, overrides, started=False) for number, overrides in missing.items()]


def refusal_file(sweep: Path, job: Path) -> Path:
    """Return where a sweep records that a job was refused because its folder holds another run."""
    return sweep / REFUSED / f"{'_'.join(job.relative_to(sweep).parts)}.json"


def _recorded_jobs(folder: Path) -> list[list[str]]:
    try:
        return (SweepRecord.read(folder).jobs or []) if (folder / NAME).is_file() else []
    except (ValueError, OSError):
        return []


def _as_failed(row: SweepRow) -> SweepRow:
    return replace(row, error="ended without results" if row.started else "was not started")


def _row(job: Path, sweep: Path, jobs: Sequence[Sequence[str]]) -> SweepRow:
    name = str(job.relative_to(sweep))
    known = jobs[int(name)] if name.isascii() and name.isdecimal() and int(name) < len(jobs) else []
    try:
        for file in (refusal_file(sweep, job), job / "error.json"):
            if file.exists():
                failure = read_failure(file)
                return SweepRow(name, known or failure["overrides"], error=failure["error"])
        if not (job / "results.json").exists():
            return SweepRow(name, known)
        results = read_results(job / "results.json")
    except (ValueError, OSError) as error:
        return SweepRow(name, known, error=str(error))
    reported = {figure: results[figure] for figure in REPORTED if figure in results}
    # A job that was resumed on its own has the folder among its overrides.
    return SweepRow(name, known or results["overrides"], results=reported)
