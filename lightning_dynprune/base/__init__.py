"""What every room builds on: the registry of parts, checks of settings, bit counting, checksums, atomic files.

Imports torch and no other room.
"""

from lightning_dynprune.base.atomic import remove_temporary_files, write_atomically, write_json
from lightning_dynprune.base.bits import compare_to_bool, count_true, true_positions
from lightning_dynprune.base.checks import (
    check_count,
    check_flag,
    check_real,
    check_share,
    check_whole,
    convert_settings,
    is_number,
    is_whole,
    to_python,
)
from lightning_dynprune.base.integrity import DamagedError, state_checksum, validate_checkpoint_file
from lightning_dynprune.base.registry import Registry

__all__ = [
    "DamagedError",
    "Registry",
    "check_count",
    "check_flag",
    "check_real",
    "check_share",
    "check_whole",
    "compare_to_bool",
    "convert_settings",
    "count_true",
    "is_number",
    "is_whole",
    "remove_temporary_files",
    "state_checksum",
    "to_python",
    "true_positions",
    "validate_checkpoint_file",
    "write_atomically",
    "write_json",
]
