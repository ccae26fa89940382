"""The progress bar of a calibration that takes longer than a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

DELAY_SECONDS = 2.0


def with_progress(
    batches: Iterable[Any], console: Console | None = None, seconds: Callable[[], float] = time.monotonic
) -> Iterator[Any]:
    """Yield batches, with a progress bar on stderr once they have taken two seconds.

    The bar shows the time left where ``batches`` has a length. There is none where stderr is neither a terminal nor a
    notebook.

    Args:
        batches: of a calibration.
        console: draws the bar; by default rich's on stderr.
        seconds: the clock.

    Example:
        >>> list(with_progress([1, 2, 3]))
        [1, 2, 3]
    """
    start = seconds()
    with closing(_Bar(batches, console)) as bar:
        for done, batch in enumerate(batches):
            if seconds() - start >= DELAY_SECONDS:
                bar.show(done)
            yield batch


class _Bar:
    """A progress bar that is not drawn until it is shown.

    Args:
        batches: whose progress is shown.
        console: draws the bar; None: rich's on stderr.
    """

    def __init__(self, batches: Iterable[Any], console: Console | None) -> None:
        self._total = _length(batches)
        self._console = console
        self._progress: Any = None
        self._task: Any = None

    def show(self, done: int) -> None:
        """Draw the bar with ``done`` batches completed."""
        if self._progress is None:
            self._progress = self._start()
            self._task = self._progress.add_task("Calibrating", total=self._total)
        self._progress.update(self._task, completed=done)

    def close(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.stop()

    def _start(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = self._console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        is_seen = console.is_terminal or console.is_jupyter
        progress = Progress(*columns, console=console, transient=True, disable=not is_seen)
        progress.start()
        return progress


def _length(batches: Iterable[Any]) -> int | None:
    """Return the number of batches; None where it is not known before they are read."""
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:  # a generator, or a DataLoader of an IterableDataset
        return None
