"""Write a journal as a checkpoint state of few tensors, and read it with checks of everything."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_dynprune.base import is_whole, printable
from lightning_dynprune.journal.delta import ENCODINGS, Delta
from lightning_dynprune.journal.delta_log import DeltaLog
from lightning_dynprune.journal.figures import Figures, figures_of_version_2, read_figures
from lightning_dynprune.journal.packed_rows import FIGURES, PackedRows
from lightning_dynprune.journal.update import DiscardedTotals, read_discarded_totals
from lightning_dynprune.targets import Target

_VERSION = 3  # version 2 had the figures of updates as a list of mappings
_KEYS = ("version", "targets", "gone", "updates", "notes", "recorded", "valued", "positions", "values")

Contents = tuple[DiscardedTotals, Figures, list[tuple[int, str]], PackedRows]


def write_state(
    targets: Sequence[Target],
    discarded: DiscardedTotals,
    figures: Figures,
    notes: Sequence[tuple[int, str]],
    log: DeltaLog,
) -> dict[str, Any]:
    """Return a journal as tensors and plain values.

    The positions of all updates and targets are one tensor, because a file of many small tensors is slow to read.

    Args:
        targets: the targets, in order.
        discarded: totals of the updates that are no longer recorded.
        figures: of every recorded update.
        notes: step and text of every note.
        log: the deltas of the last updates, one per target.
    """
    valued, values = log.values(len(targets))
    return {
        "version": _VERSION,
        "targets": {target.name: target.numel for target in targets},
        "gone": dataclasses.asdict(discarded),
        "updates": dict(figures.columns),
        "notes": [[step, text] for step, text in notes],
        "recorded": log.figures(),
        "valued": valued,
        "positions": log.positions(),
        "values": {target.name: tensor for target, tensor in zip(targets, values, strict=False)},
    }


def read_state(state: Mapping[str, Any], targets: Sequence[Target], with_values: bool) -> Contents:
    """Return the discarded totals, figures, notes and deltas that :func:`write_state` wrote.

    The deltas are views of the state's tensors.

    Args:
        state: the state, read from a file that is not trusted.
        targets: the targets, in order.
        with_values: whether to keep the values of dropped connections.

    Raises:
        ValueError: the state has another version, belongs to other targets, or is damaged.
    """
    _validate_header(state, targets)
    sizes = {target.name: target.numel for target in targets}
    figures = (figures_of_version_2 if state["version"] == 2 else read_figures)(state["updates"], sizes)
    discarded = read_discarded_totals(state["gone"])
    steps = torch.cat([torch.tensor([discarded.step]), figures.columns["step"]])
    if len(backwards := (steps.diff() < 0).nonzero()):
        earlier, later = steps[int(backwards[0]) :][:2].tolist()
        raise ValueError(f"journal: an update at step {later} follows one at step {earlier}; it is damaged")
    rows = _read_rows(state, targets, len(figures))
    valued = state["valued"]
    if not is_whole(valued) or not 0 <= valued <= len(rows):
        raise ValueError(f"journal: values of {valued!r} updates, but positions of {len(rows)}; it is damaged")
    counts = _validate_rows(rows, figures.last(len(rows)), targets, valued)
    if valued:
        values = tuple(
            _read_values(state["values"], target.name, int(counts[:, position].sum()))
            for position, target in enumerate(targets)
        )
        if with_values:
            rows = rows.with_values(values, counts)
    return discarded, figures, [(step, text) for step, text in state["notes"]], rows


def _validate_header(state: Mapping[str, Any], targets: Sequence[Target]) -> None:
    if not isinstance(state, Mapping):
        raise ValueError(f"journal: a {type(state).__name__} is not accepted; give a state_dict of a journal")
    if type(version := state.get("version")) is not int or version not in (2, _VERSION):
        raise ValueError(f"journal: a record of version {version!r} cannot be read; expected {_VERSION} or 2")
    if missing := [key for key in _KEYS if key not in state]:
        raise ValueError(f"journal: {missing[0]!r} is missing; the file is damaged")
    saved, own = state["targets"], {target.name: target.numel for target in targets}
    counts = isinstance(saved, Mapping) and all(type(count) is int for count in saved.values())
    if not counts or list(saved.items()) != list(own.items()):
        saved = saved if counts else {}
        name = next((n for n in [*own, *saved] if saved.get(n) != own.get(n)), "their order")
        raise ValueError(
            f"journal: it was recorded from other targets: {printable(str(name))} differs ({saved.get(name)} "
            f"connections in the state, {own.get(name)} in the model); resume with the targets of that run"
        )
    for note in state["notes"] if isinstance(state["notes"], list) else [None]:
        if not isinstance(note, (list, tuple)) or [type(part) for part in note] != [int, str]:
            raise ValueError(f"journal: the note {note!r} is not a step and a text; the file is damaged")


def _read_rows(state: Mapping[str, Any], targets: Sequence[Target], most_rows: int) -> PackedRows:
    recorded, positions = state["recorded"], state["positions"]
    _validate_tensor(recorded, torch.int64, 2, "'recorded'")
    _validate_tensor(positions, torch.uint8, 1, "'positions'")
    if recorded.shape[1] != FIGURES or len(recorded) % len(targets):
        raise ValueError(f"journal: 'recorded' of shape {tuple(recorded.shape)} does not hold 4 figures per target")
    if (rows := len(recorded) // len(targets)) > most_rows:
        raise ValueError(f"journal: positions of {rows} updates, but figures of {most_rows}; it is damaged")
    lengths, codes, flags = recorded[:, 0], recorded[:, 2], recorded[:, 3]
    total = int(lengths.sum())
    if total != positions.numel() or bool((lengths < 0).any() | (lengths > total).any()):
        raise ValueError(f"journal: {positions.numel()} bytes of positions where {total} are expected; it is damaged")
    unknown = ((codes < 0) | (codes >= len(ENCODINGS)) | (flags < 0) | (flags > 1)).nonzero()
    if len(unknown):
        number = int(unknown[0])
        _, _, code, deflated = recorded[number].tolist()
        name = targets[number % len(targets)].name
        raise ValueError(f"journal of {name}: encoding {code}, {deflated} is unknown; it is damaged")
    return PackedRows(recorded.cpu(), positions.cpu(), tuple(target.numel for target in targets))


def _validate_rows(rows: PackedRows, figures: Figures, targets: Sequence[Target], valued: int) -> Tensor:
    """Check each delta against the figures of its update; return the dropped connections of the last rows: int64."""
    counts = torch.zeros(valued, len(targets), dtype=torch.int64)
    steps, *columns = (figures.columns[key] for key in ("step", "dropped", "grown"))
    for number, (row, *both) in enumerate(zip(rows, *columns, strict=True), valued - len(rows)):
        counted = zip(row, targets, *(each.tolist() for each in both), strict=True)
        for position, (delta, target, dropped, grown) in enumerate(counted):
            delta.validate(target.name)
            dropped = _dropped(delta, dropped, grown, target.name, steps[number - valued])
            if number >= 0:
                counts[number, position] = dropped
    return counts


def _dropped(delta: Delta, dropped: int, grown: int, name: str, step: Tensor) -> int:
    """Return how many flips went from kept to pruned; the other flips are returned connections."""
    # A connection dropped and grown by the same update counts in both figures, but does not flip.
    if not abs(dropped - grown) <= delta.flipped <= dropped + grown or (delta.flipped + dropped + grown) % 2:
        raise ValueError(
            f"journal of {name}: {delta.flipped} flips at step {int(step)} do not fit {dropped} dropped and "
            f"{grown} grown; it is damaged"
        )
    return (delta.flipped + dropped - grown) // 2


def _read_values(values: Any, name: str, count: int) -> Tensor:
    if not isinstance(values, Mapping) or name not in values:
        raise ValueError(f"journal of {name}: its values are missing; the file is damaged")
    tensor: Tensor = values[name]
    if not _is_plain(tensor) or not tensor.is_floating_point() or tensor.shape != (count,):
        raise ValueError(
            f"journal of {name}: its values are {_described(tensor)} where floats of shape ({count},) are "
            "expected; it is damaged"
        )
    return tensor.cpu()


def _validate_tensor(tensor: Any, dtype: torch.dtype, dim: int, key: str) -> None:
    if not _is_plain(tensor) or tensor.dtype != dtype or tensor.dim() != dim:
        raise ValueError(f"journal: {key} is {_described(tensor)}; expected {dtype} of {dim} dimensions")


def _is_plain(tensor: Any) -> bool:
    # A sparse or expanded tensor may claim far more entries than its file holds.
    plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.is_contiguous()
    return plain and not (tensor.is_meta or tensor.is_quantized)


def _described(tensor: Any) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
