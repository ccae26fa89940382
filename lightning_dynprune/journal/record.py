"""The journal: every update's figures and flips, and the masks and values they lead back to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_dynprune.base import check_count, check_flag, check_real, check_whole, write_atomically
from lightning_dynprune.journal import past
from lightning_dynprune.journal.delta import Delta
from lightning_dynprune.journal.overview import Overview
from lightning_dynprune.journal.state import read_state, write_state
from lightning_dynprune.journal.table import summary_table
from lightning_dynprune.journal.update import DiscardedTotals, Update
from lightning_dynprune.masks import MaskSet, unpack_bits

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Journal:
    """Records every update of a run, and leads back to any earlier mask.

    An update of scattered flips takes 0.30 bits a connection at 5 % churn (the entropy is 0.29), 0.08 at 1 %, 0.73 at
    20 %; none takes more than one, rounded up to whole bytes a target. Where whole rows flip it takes next to nothing.

    Args:
        masks: the masks whose updates are recorded; :meth:`mask_at` walks back from them.
        remember_values: keep the value of every dropped connection too.
        cap: most bits a connection, over all targets, that the recorded positions may take; the oldest are let go
            first, with their values, while their figures stay. None = no cap.
        longest: updates that are recorded, at most; the oldest are let go first, figures and all, and counted on in
            :attr:`totals`. None = no end.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: ``cap`` is negative, or ``longest`` below 1.

    Attributes:
        updates: the figures of every update that is recorded, oldest first.
        notes: decisions in words, each with the step it was taken at.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_dynprune.targets import Target
        >>> masks = MaskSet([Target("w", nn.Parameter(torch.tensor([3.0, 1.0, 2.0])))])
        >>> journal = Journal(masks)
        >>> before, after = masks.tensors[0].clone(), torch.tensor([True, False, True])
        >>> _ = masks.write(0, [after])
        >>> update = Update(10, 0.33, masks.sparsity, {"w": 1}, {"w": 0}, 1 / 3)
        >>> journal.add(update, [journal.delta(before, after, masks.targets[0].parameter)])
        >>> journal.mask_at(9)["w"].tolist(), journal.mask_at(10)["w"].tolist()
        ([True, True, True], [True, False, True])
    """

    def __init__(
        self,
        masks: MaskSet,
        remember_values: bool = False,
        cap: float | None = 8.0,
        longest: int | None = 1000,
    ) -> None:
        self.masks = masks
        self.remember_values = check_flag("remember_values", remember_values)
        self.cap = None if cap is None else check_real("cap", cap, low=0)
        self.longest = None if longest is None else check_count("longest", longest)
        self.updates: list[Update] = []
        self.notes: list[tuple[int, str]] = []
        # Of the last updates, as many as the cap leaves room for.
        self._deltas: list[tuple[Delta, ...]] = []
        self._bytes = 0
        self._discarded = DiscardedTotals()

    @property
    def totals(self) -> dict[str, int]:
        """All ``updates`` made so far, and the connections they ``dropped`` and ``grown``; what was let go counts."""
        return {
            "updates": self._discarded.updates + len(self.updates),
            "dropped": self._discarded.dropped + sum(sum(update.dropped.values()) for update in self.updates),
            "grown": self._discarded.grown + sum(sum(update.grown.values()) for update in self.updates),
        }

    @property
    def bits(self) -> float:
        """Bits a connection, over all targets, that the recorded positions take."""
        return 8 * self._bytes / max(self.masks.total, 1)

    @property
    def earliest_step(self) -> int:
        """The earliest step whose masks can be given; 0 = all of them."""
        gone = len(self.updates) - len(self._deltas)
        return self.updates[gone - 1].step if gone else self._discarded.step

    @property
    def returned_share(self) -> float | None:
        """Share of the connections now kept that had once been cut; None where no positions are left to tell from.

        In a capped journal it covers the updates since :attr:`earliest_step`. It reads the whole record, which is slow.
        """
        if self.updates and not self._deltas:
            return None
        kept = sum(self.masks.kept)
        returned = sum(past.count_returned(self.masks, i, self._deltas) for i in range(len(self.masks.targets)))
        return returned / kept if kept else None

    def delta(self, before: Tensor, after: Tensor, weight: Tensor) -> Delta:
        """Return what an update flipped in one target, for :meth:`add`.

        Args:
            before: bool mask before the update.
            after: the mask after it.
            weight: values of the connections before the dropped ones were zeroed.

        Raises:
            ValueError: the shapes differ.
        """
        return Delta.between(before, after, weight if self.remember_values else None)

    def add(self, update: Update, deltas: Sequence[Delta] | None) -> None:
        """Record an update that was made.

        Args:
            update: its figures.
            deltas: what it flipped, one a target, in the order of the targets; None where that is not known here, and
                earlier positions are let go of, as they cannot be walked back to.

        Raises:
            ValueError: the deltas are of other targets, or the update is older than the last one recorded.
        """
        sizes = [target.numel for target in self.masks.targets]
        if deltas is not None and [delta.numel for delta in deltas] != sizes:
            raise ValueError(f"deltas of {[d.numel for d in deltas]} connections do not fit targets of {sizes}")
        if self.updates and update.step < self.updates[-1].step:
            raise ValueError(f"an update at step {update.step} cannot follow one at step {self.updates[-1].step}")
        self.updates.append(update)
        if deltas is None:
            self._clear()
        else:
            self._deltas.append(tuple(deltas))
            self._bytes += _size(deltas)
        self._let_go()

    def note(self, step: int, text: str) -> None:
        """Record a decision in words.

        Args:
            step: optimizer steps done.
            text: what was decided, and why.
        """
        self.notes.append((step, text))

    def discard_positions(self, step: int, why: str) -> None:
        """Let go of all positions recorded so far, where they mean nothing any more; the figures stay.

        Args:
            step: optimizer steps done.
            why: goes into the notes, once.
        """
        self._clear()
        if why not in (text for _, text in self.notes):
            self.note(step, why)

    def mask_at(self, step: int) -> dict[str, Tensor]:
        """Return the masks as they stood after an optimizer step, by target; those in use stay as they are.

        Args:
            step: optimizer steps done; of several updates at one step the last counts.

        Raises:
            TypeError: ``step`` is no whole number.
            ValueError: the journal does not reach back so far.
        """
        deltas = self._deltas_after(step)
        masks = {}
        for position, (target, mask) in enumerate(zip(self.masks.targets, self.masks.tensors, strict=True)):
            packed = past.packed_mask_before(self.masks, position, deltas)
            masks[target.name] = unpack_bits(packed, target.numel, target.name).to(mask.device).view(mask.shape)
        return masks

    def values_at(self, step: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Return what was kept after an optimizer step and is pruned now, with its value at its first cut since.

        Args:
            step: optimizer steps done.

        Returns:
            By target: flat indices (int64, ascending) and values, both on the CPU.

        Raises:
            TypeError: ``step`` is no whole number.
            ValueError: values were not remembered, the journal does not reach back so far, or the masks are not those
                it was recorded from.
        """
        if not self.remember_values:
            raise ValueError(
                "values were not remembered: remember_values=False; set remember_values=True to record them"
            )
        deltas = self._deltas_after(step)
        if any(delta.values is None for row in deltas for delta in row):
            raise ValueError(
                f"the values cut after step {step} were not all remembered; the run was resumed from one with "
                "remember_values=False"
            )
        return {t.name: past.pruned_since(self.masks, i, deltas) for i, t in enumerate(self.masks.targets)}

    def state_dict(self) -> dict[str, Any]:
        """Return the whole record as tensors and plain values; the tensors are copies."""
        return write_state(self.masks.targets, self._discarded, self.updates, self.notes, self._deltas)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a :meth:`state_dict`; everything is checked before anything is changed.

        The settings stay this journal's own: updates and positions past its bounds are let go, and values too where it
        does not remember them.

        Raises:
            ValueError: the state is of another version or of other targets, or damaged.
        """
        read = read_state(state, self.masks.targets, self.remember_values)
        self._discarded, self.updates, self.notes, self._deltas = read
        self._bytes = sum(map(_size, self._deltas))
        self._let_go()

    def summary(self) -> str:
        """Return a table of the updates, every target's density, and how many kept connections had once been cut."""
        return summary_table(self._overview(), self.returned_share, self.earliest_step)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw churn and every target's density over the optimizer steps, notes as marks.

        Args:
            path: where to save the figure; its suffix gives the format. None = nowhere.

        Returns:
            The matplotlib figure; no window is opened and no global state of matplotlib changed.
        """
        from lightning_dynprune.journal.figure import draw_journal

        figure = draw_journal(self._overview())
        if path is not None:
            write_atomically(Path(path), lambda scratch: figure.savefig(scratch, dpi=150, facecolor="white"))
        return figure

    def _overview(self) -> Overview:
        targets, kept = self.masks.targets, self.masks.kept
        return Overview(
            updates=self.updates,
            count=self.totals["updates"],
            notes=self.notes,
            sizes={target.name: target.numel for target in targets},
            kept={target.name: count for target, count in zip(targets, kept, strict=True)},
            total=max(self.masks.total, 1),
        )

    def _let_go(self) -> None:
        """Let go of the oldest positions past the cap, and of the oldest updates past the longest record."""
        room = math.inf if self.cap is None else self.cap * self.masks.total
        gone = 0
        while 8 * self._bytes > room:
            self._bytes -= _size(self._deltas[gone])
            gone += 1
        del self._deltas[:gone]
        if self.longest is None or len(self.updates) <= self.longest:
            return
        for update in self.updates[: -self.longest]:
            self._discarded = self._discarded.plus(update)
        del self.updates[: -self.longest]
        for deltas in self._deltas[: -self.longest]:
            self._bytes -= _size(deltas)
        del self._deltas[: -self.longest]

    def _clear(self) -> None:
        self._deltas.clear()
        self._bytes = 0

    def _deltas_after(self, step: int) -> list[tuple[Delta, ...]]:
        """Return the deltas recorded after a step."""
        step = check_whole("step", step)
        if step < self.earliest_step:
            raise ValueError(
                f"the journal does not reach back to step {step}: cap={self.cap} bits a connection, longest="
                f"{self.longest} updates, slimming, or targets held in parts, let go of all positions before step "
                f"{self.earliest_step}; give step={self.earliest_step} or later, or raise cap or longest"
            )
        later = sum(update.step > step for update in self.updates)
        return self._deltas[len(self._deltas) - later :]


def _size(deltas: Sequence[Delta]) -> int:
    return sum(delta.encoded.numel() for delta in deltas)
