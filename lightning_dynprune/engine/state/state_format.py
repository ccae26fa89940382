"""The format of a pruning state: its version, its checksum, and states of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_dynprune.base import DamagedError, state_checksum
from lightning_dynprune.engine.state.structure import validate_structure

VERSION = 5
CHECKSUM = "checksum"
# Version 4 -> version 5: the same entries under other names.
_RENAMED_IN_5 = {
    "lag": "paused_for",
    "carried": "previous_sparsity",
    "turns": "gradient_snapshot",
    "at_floor": "at_min_kept",
    "whole": "original_numel",
}


def sealed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state with the checksum of its entries.

    Args:
        state: tensors and plain values; a checksum in it is replaced.
    """
    content = {key: value for key, value in state.items() if key != CHECKSUM}
    return {**content, CHECKSUM: state_checksum(content)}


def read_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state from a checkpoint in the format of today, once it has been validated.

    Args:
        state: from a file, and not to be trusted.

    Raises:
        DamagedError: the state does not match its checksum.
        ValueError: the state has another version, or an entry is missing or malformed.
    """
    version = _validated_version(state)
    validate_checksum(state)
    # Version 5 was written without this entry before there were requests.
    current = migrated(state) if version == 4 else {"requested_sparsity": None, **state}
    validate_structure(current)
    return current


def validate_checksum(state: Mapping[str, Any]) -> None:
    """Raise where a state does not match its checksum; ``torch.load`` does not notice a flipped bit.

    Raises:
        DamagedError: it does not.
    """
    try:
        kept = state.get(CHECKSUM)
        matches = type(kept) is int and kept == sealed(state)[CHECKSUM]
    except (TypeError, RecursionError) as error:
        raise DamagedError(f"checkpoint: the pruning state is damaged: {error}") from None
    if not matches:
        raise DamagedError(
            "checkpoint: the pruning state does not match its checksum, so it is damaged; nothing was changed. Resume "
            "from an older checkpoint, or start anew"
        )


def migrated(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state of version 4 under the names of version 5, with its old checksum.

    Args:
        state: of version 4, whose checksum has been validated.
    """
    renamed = {_RENAMED_IN_5.get(key, key): value for key, value in state.items()}
    snapshot = renamed.get("gradient_snapshot")
    if isinstance(snapshot, Mapping):
        renamed["gradient_snapshot"] = {
            "stepped_optimizers" if key == "optimizers" else key: value for key, value in snapshot.items()
        }
    return {"requested_sparsity": None, **renamed, "version": VERSION}


def state_for_new_fit(state: Mapping[str, Any], fresh: Mapping[str, Any], previous_sparsity: float) -> dict[str, Any]:
    """Return the state that a new training begins with when it keeps what an earlier one has pruned.

    Args:
        state: of the pruner of the earlier training.
        fresh: of the pruner of the new training, before its first step; its clock and journal are kept.
        previous_sparsity: share of connections that the earlier training pruned; the schedule goes on from there.
    """
    kept = {
        key: fresh[key] for key in ("clock", "paused_for", "paused", "requested_sparsity", "last_update", "journal")
    }
    return sealed({**state, **kept, "previous_sparsity": previous_sparsity})


def _validated_version(state: Mapping[str, Any]) -> int:
    """Return the version of a state.

    Raises:
        ValueError: no such version can be read.
    """
    version = state.get("version") if isinstance(state, Mapping) else None
    if type(version) is not int or version not in (4, VERSION):
        raise ValueError(
            f"checkpoint: pruning state of version {version!r} cannot be read; expected {VERSION} or 4. Resume with "
            "the release of lightning-dynprune that wrote it, or load the weights alone and prune anew"
        )
    return version
