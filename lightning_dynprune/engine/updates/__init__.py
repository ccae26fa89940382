"""One update of the masks, from scores to a record; and the return to earlier masks.

May import what engine may.
"""

from lightning_dynprune.engine.updates.mask_update import Changes, MaskChanged, UpdateRequest, update_masks
from lightning_dynprune.engine.updates.min_kept import MinKept, MinKeptWarnings, check_reachable
from lightning_dynprune.engine.updates.restore import restore_masks
from lightning_dynprune.engine.updates.run_update import update_run
from lightning_dynprune.engine.updates.savepoint import finish
from lightning_dynprune.engine.updates.score_reader import piece_size, pieces_of
from lightning_dynprune.engine.updates.units import TargetUnits, UncoupledUnits, Units

__all__ = [
    "Changes",
    "MaskChanged",
    "MinKept",
    "MinKeptWarnings",
    "TargetUnits",
    "UncoupledUnits",
    "Units",
    "UpdateRequest",
    "check_reachable",
    "finish",
    "piece_size",
    "pieces_of",
    "restore_masks",
    "update_masks",
    "update_run",
]
