"""Errors that one process meets between two updates, held until all processes can raise them after the same step."""

from __future__ import annotations

import json
import secrets
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from lightning_dynprune.distributed.compat import group_store
from lightning_dynprune.distributed.ranks import RankError, Ranks, quote

_POLL_SECONDS = 0.5  # between two looks at the store
_ANSWER_SECONDS = 15.0  # for all processes to look; then the error is raised in its own process alone
_QUOTED = 4096  # characters of an error that are stored


class HeldErrors:
    """Announces an error of one process to the others through the store of their group, without a message a step.

    A process that raised at once would leave the others waiting in the next backward pass until that times out. Here
    it writes its error to the store and waits until every other process has seen it, which a thread in each of them
    looks for twice a second. It then takes part in the training again, and all raise once the step after the next is
    counted: processes whose gradients are averaged are at most one step apart.

    Args:
        ranks: the processes; all of them build this together.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._own: Exception | None = None
        self._notice: _Notice | None = None
        if ranks.size > 1:
            number = int(ranks.gather(torch.tensor([secrets.randbits(62)]))[0])
            self._notice = _Notice(f"dynprune/{number:x}")
            watching = threading.Thread(target=_watch, args=(self._notice, ranks.group), daemon=True)
            watching.start()
            weakref.finalize(self, _stop, self._notice, watching)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which announces nothing."""
        return {**vars(self), "_own": None, "_notice": None}

    @property
    def has_failed(self) -> bool:
        """Whether this process holds an error of its own."""
        return self._own is not None

    @contextmanager
    def hold(self, step: int) -> Iterator[None]:
        """Hold an error of the block, and announce it; with one process it is raised at once.

        Args:
            step: optimizer steps counted so far.
        """
        if self._notice is None:
            yield
            return
        try:
            yield
        except Exception as error:
            if self._own is None and not self._announce(self._notice, error, step + 2):
                raise
            self._own = self._own or error

    def raise_due(self, step: int) -> None:
        """Raise an error that was held, in whatever process, if this is the step for it; no message.

        Args:
            step: optimizer steps counted so far.

        Raises:
            RankError: another process failed; the message quotes its error.
        """
        notice = self._notice
        if notice is None or notice.due is None or step < notice.due:
            return
        own, text = self._own, notice.text
        self.close()
        if own is not None:
            raise own
        raise RankError(text)

    def raise_own(self) -> None:
        """Raise what this process holds, inside a block that all processes enter and that raises in all of them."""
        own = self._own
        if own is not None or (self._notice is not None and self._notice.due is not None):
            self.close()
        if own is not None:
            raise own

    def close(self) -> None:
        """Hold nothing more, and look for no errors of others."""
        self._own = None
        if self._notice is not None:
            self._notice.closed.set()
            self._notice = None

    def _announce(self, notice: _Notice, error: Exception, due: int) -> bool:
        """Write an error to the store; return whether every process has read it."""
        text = f"rank {self._ranks.rank} failed: {quote(error)[:_QUOTED]}"
        with suppress(RuntimeError):  # of a store whose process has ended
            store = group_store(self._ranks.group)
            if store is None:
                return False
            # The first error stays, so that all processes read one text and one step.
            store.compare_set(notice.key, "", json.dumps({"text": text, "due": due}))
            end = time.monotonic() + _ANSWER_SECONDS
            while time.monotonic() < end:
                if store.add(notice.seen_key, 0) >= self._ranks.size:
                    return True
                time.sleep(_POLL_SECONDS / 10)
        return False


@dataclass
class _Notice:
    """An error of any process, as this process has read it from the store."""

    key: str
    text: str = ""
    due: int | None = None
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def seen_key(self) -> str:
        """The key under which the processes that have read the notice are counted."""
        return f"{self.key}/seen"


def _watch(notice: _Notice, group: dist.ProcessGroup | None) -> None:
    """Look for an error of another process until there is one, or the group or its store is gone."""
    while not notice.closed.wait(_POLL_SECONDS):
        try:
            # Not kept, as a store that is still referred to would outlive its group and occupy the port.
            store = group_store(group)
            if store is None:
                return
            if store.check([notice.key]):
                found = json.loads(store.get(notice.key))
                notice.text, notice.due = found["text"], found["due"]
                store.add(notice.seen_key, 1)
                return
            del store
        except RuntimeError:
            return


def _stop(notice: _Notice, watching: threading.Thread) -> None:
    """End the thread, also before the interpreter goes, in which a thread inside torch would crash."""
    notice.closed.set()
    if watching is not threading.current_thread():
        watching.join(timeout=2 * _POLL_SECONDS)
