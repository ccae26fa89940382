"""Foundations: the registry of parts, checks of settings, bit operations, checksums, and atomic writing of files.

May import no other room; the only library is torch.
"""

from lightning_dynprune.base.atomic import remove_temporary_files, write_atomically, write_json
from lightning_dynprune.base.bits import compare_to_bool, count_true, integer_dtype, integer_view, true_positions
from lightning_dynprune.base.checks import check_count, check_flag, check_real, check_share, check_whole, is_number
from lightning_dynprune.base.integrity import DamagedError, state_checksum, validate_checkpoint_file
from lightning_dynprune.base.layer_types import BATCH_NORMS, CONVOLUTIONS, INSTANCE_NORMS
from lightning_dynprune.base.registry import Registry

__all__ = [
    "BATCH_NORMS",
    "CONVOLUTIONS",
    "INSTANCE_NORMS",
    "DamagedError",
    "Registry",
    "check_count",
    "check_flag",
    "check_real",
    "check_share",
    "check_whole",
    "compare_to_bool",
    "count_true",
    "integer_dtype",
    "integer_view",
    "is_number",
    "remove_temporary_files",
    "state_checksum",
    "true_positions",
    "validate_checkpoint_file",
    "write_atomically",
    "write_json",
]
