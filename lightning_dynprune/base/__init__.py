"""What every room builds on: the registry of parts, checks of settings, bit counting, checksums, atomic files, colors.

Imports torch and no other room.
"""

from lightning_dynprune.base.atomic import remove_temporary_files, write_atomically, write_json
from lightning_dynprune.base.bits import compare_to_bool, count_true, true_positions
from lightning_dynprune.base.checks import check_count, check_flag, check_real, check_share, check_whole, is_number
from lightning_dynprune.base.integrity import DamagedError, state_checksum, validate_checkpoint_file
from lightning_dynprune.base.palette import PALETTE
from lightning_dynprune.base.registry import Registry
from lightning_dynprune.base.text import name_some

__all__ = [
    "PALETTE",
    "DamagedError",
    "Registry",
    "check_count",
    "check_flag",
    "check_real",
    "check_share",
    "check_whole",
    "compare_to_bool",
    "count_true",
    "is_number",
    "name_some",
    "remove_temporary_files",
    "state_checksum",
    "true_positions",
    "validate_checkpoint_file",
    "write_atomically",
    "write_json",
]
