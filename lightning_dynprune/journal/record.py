"""The journal: the record of every update, from which earlier masks and values are restored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_dynprune.base import check_count, check_flag, check_real, check_whole, write_atomically
from lightning_dynprune.journal.delta import Delta
from lightning_dynprune.journal.delta_log import DeltaLog
from lightning_dynprune.journal.earlier_masks import count_returned, packed_mask_before, pruned_since
from lightning_dynprune.journal.figures import Figures
from lightning_dynprune.journal.overview import Overview
from lightning_dynprune.journal.state import read_state, write_state
from lightning_dynprune.journal.table import summary_table
from lightning_dynprune.journal.update import DiscardedTotals, Update
from lightning_dynprune.masks import MaskSet, unpack_bits

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Journal:
    """Records every update of a run, and restores earlier masks.

    An update with scattered flips takes 0.30 bits a connection at 5 % churn (the entropy is 0.29), 0.08 at 1 %, 0.73 at
    20 %. No update takes more than one bit, rounded up to whole bytes per target. Flips of whole rows take much less.

    Args:
        masks: the masks whose updates are recorded; :meth:`mask_at` starts from them.
        remember_values: whether to record the value of every dropped connection too.
        cap: largest size of the recorded positions, in bits a connection over all targets; the oldest positions are
            discarded first, with their values, but not their figures. None = no cap.
        longest: largest number of updates to record; the oldest are discarded first, with their figures, and count in
            :attr:`totals` only. None = no limit.

    Raises:
        TypeError: a setting has the wrong type.
        ValueError: ``cap`` is negative, or ``longest`` below 1.

    Attributes:
        updates: the figures of every recorded update, oldest first.
        notes: decisions in words, each with its optimizer step.

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
        self._deltas = DeltaLog()  # of the last updates, as many as the cap allows
        self._discarded = DiscardedTotals()

    @property
    def totals(self) -> dict[str, int]:
        """Number of ``updates`` made so far, and of connections ``dropped`` and ``grown``, with discarded updates."""
        return {
            "updates": self._discarded.updates + len(self.updates),
            "dropped": self._discarded.dropped + sum(sum(update.dropped.values()) for update in self.updates),
            "grown": self._discarded.grown + sum(sum(update.grown.values()) for update in self.updates),
        }

    @property
    def bits(self) -> float:
        """Size of the recorded positions, in bits a connection over all targets."""
        return 8 * self._deltas.num_bytes / max(self.masks.total, 1)

    @property
    def earliest_step(self) -> int:
        """The earliest step whose masks can be restored; 0 = all of them."""
        missing = len(self.updates) - len(self._deltas)
        return self.updates[missing - 1].step if missing else self._discarded.step

    @property
    def returned_share(self) -> float | None:
        """Share of the kept connections that had been pruned before; None if no positions are recorded.

        In a capped journal it covers the updates since :attr:`earliest_step`. It reads the whole record, which is slow.
        """
        if self.updates and not len(self._deltas):
            return None
        kept = sum(self.masks.kept)
        rows = list(self._deltas)
        returned = sum(count_returned(self.masks, i, rows) for i in range(len(self.masks.targets)))
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

    def add(self, update: Update, deltas: Sequence[Delta] | None, note: str | None = None) -> None:
        """Record an update that was made; one that is recorded already, the same object, is not recorded twice.

        Args:
            update: its figures.
            deltas: the flips of each target, in the order of the targets; None if they are not known, which discards
                all earlier positions, as they can no longer be reached from the masks in use.
            note: a decision in words that led to the update.

        Raises:
            ValueError: the deltas belong to other targets, or the update is older than the last one recorded.
        """
        if self.updates and self.updates[-1] is update:
            return
        sizes = [target.numel for target in self.masks.targets]
        if deltas is not None and [delta.numel for delta in deltas] != sizes:
            raise ValueError(f"deltas of {[d.numel for d in deltas]} connections do not fit targets of {sizes}")
        if self.updates and update.step < self.updates[-1].step:
            raise ValueError(f"an update at step {update.step} cannot follow one at step {self.updates[-1].step}")
        notes = self.notes if note is None else [*self.notes, (update.step, note)]
        if deltas is None:
            record = self._trimmed([*self.updates, update], DeltaLog())
        else:
            record = self._trimmed([*self.updates, update], self._deltas.with_row(deltas))
        # One statement, so that an interruption finds all of it done or nothing.
        self.notes, (self.updates, self._deltas, self._discarded) = notes, record

    def note(self, step: int, text: str) -> None:
        """Record a decision in words.

        Args:
            step: number of optimizer steps done.
            text: what was decided, and why.
        """
        self.notes.append((step, text))

    def discard_positions(self, step: int, why: str) -> None:
        """Discard all recorded positions, because they no longer fit the masks; the figures stay.

        Args:
            step: number of optimizer steps done.
            why: the reason, added to the notes once.
        """
        self._deltas = DeltaLog()
        if why not in (text for _, text in self.notes):
            self.note(step, why)

    def mask_at(self, step: int) -> dict[str, Tensor]:
        """Return the masks as they were after an optimizer step, by target; the masks in use do not change.

        Args:
            step: number of optimizer steps done; of several updates at one step, the last counts.

        Raises:
            TypeError: ``step`` is not a whole number.
            ValueError: positions of that step are no longer recorded.
        """
        deltas = self._deltas_after(step)
        masks = {}
        for position, (target, mask) in enumerate(zip(self.masks.targets, self.masks.tensors, strict=True)):
            packed = packed_mask_before(self.masks, position, deltas)
            masks[target.name] = unpack_bits(packed, target.numel, target.name).to(mask.device).view(mask.shape)
        return masks

    def values_at(self, step: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the connections that were kept after a step and are pruned now, with the values when first dropped.

        Args:
            step: number of optimizer steps done.

        Returns:
            By target: flat indices (int64, ascending) and values, both on the CPU.

        Raises:
            TypeError: ``step`` is not a whole number.
            ValueError: values were not recorded, positions of that step are no longer recorded, or the masks are not
                those of the recorded run.
        """
        if not self.remember_values:
            raise ValueError(
                "values were not remembered: remember_values=False; set remember_values=True to record them"
            )
        deltas = self._deltas_after(step)
        if any(delta.values is None for row in deltas for delta in row):
            raise ValueError(
                f"the values dropped after step {step} were not all remembered; the run was resumed from one with "
                "remember_values=False"
            )
        return {t.name: pruned_since(self.masks, i, deltas) for i, t in enumerate(self.masks.targets)}

    def state_dict(self) -> dict[str, Any]:
        """Return the whole record as tensors and plain values; the tensors are copies."""
        targets = self.masks.targets
        figures = Figures.of(self.updates, [target.name for target in targets])
        return write_state(targets, self._discarded, figures, self.notes, self._deltas)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a :meth:`state_dict`; everything is checked before anything is changed.

        The settings of this journal do not change: updates and positions beyond its limits are discarded, and values
        too if it does not remember them.

        Raises:
            ValueError: the state has another version, belongs to other targets, or is damaged.
        """
        discarded, figures, self.notes, rows = read_state(state, self.masks.targets, self.remember_values)
        log, first = DeltaLog(rows), 0 if self.longest is None else max(0, len(figures) - self.longest)
        log.drop_oldest(len(log) - (len(figures) - first))
        self._discarded = discarded.plus_first(first, figures.columns)
        self.updates, self._deltas, self._discarded = self._trimmed(figures.updates(first), log)
        self._deltas.copy_packed()  # later changes of the state do not change the record

    def summary(self) -> str:
        """Return a table of the updates, every target's density, and the share of returned connections."""
        return summary_table(self._overview(), self.returned_share, self.earliest_step)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw churn and every target's density over the optimizer steps, with the notes as marks.

        Args:
            path: file to save the figure to; its suffix gives the format. None = it is not saved.

        Returns:
            The matplotlib figure; no window is opened and no global state of matplotlib changed.
        """
        from lightning_dynprune.journal.figure import draw_journal

        figure = draw_journal(self._overview())
        if path is not None:
            write_atomically(Path(path), lambda temporary: figure.savefig(temporary, dpi=150, facecolor="white"))
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

    def _trimmed(self, updates: list[Update], log: DeltaLog) -> tuple[list[Update], DeltaLog, DiscardedTotals]:
        """Return a record without the oldest positions beyond the cap and the oldest updates beyond the longest record.

        Args:
            updates: of the record.
            log: of the record; it is trimmed in place.

        Returns:
            Updates, positions, and the totals of all updates that are left out.
        """
        log.drop_past(math.inf if self.cap is None else self.cap * self.masks.total)
        discarded = self._discarded
        if self.longest is None or len(updates) <= self.longest:
            return updates, log, discarded
        for update in updates[: -self.longest]:
            discarded = discarded.plus(update)
        log.drop_oldest(len(log) - self.longest)
        return updates[-self.longest :], log, discarded

    def _deltas_after(self, step: int) -> list[Sequence[Delta]]:
        """Return the deltas recorded after a step; raise a ValueError if some of them were discarded."""
        step = check_whole("step", step)
        if step < self.earliest_step:
            raise ValueError(
                f"the journal does not reach back to step {step}: cap={self.cap} bits a connection, longest="
                f"{self.longest} updates, slimming, or sharded targets made it discard all positions before step "
                f"{self.earliest_step}; give step={self.earliest_step} or later, or raise cap or longest"
            )
        later = sum(update.step > step for update in self.updates)
        return self._deltas.last(later)
