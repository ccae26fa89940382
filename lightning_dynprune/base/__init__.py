"""Foundations: registry, checks of settings, bits, checksums, nested tensors, model calls, files, colors, text.

May import no other room; the only library is torch, which is imported when one of
the names that need it is first used.
"""

from typing import TYPE_CHECKING

from lightning_dynprune.base.lazy import lazy_names

if TYPE_CHECKING:
    from lightning_dynprune.base.atomic import remove_temporary_files, write_atomically, write_json, write_text
    from lightning_dynprune.base.bits import compare_to_bool, count_true, integer_view, true_positions
    from lightning_dynprune.base.bounded_json import parse_json, read_json
    from lightning_dynprune.base.checkpoints import read_checkpoint
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
    from lightning_dynprune.base.differences import largest_magnitude, max_absolute_difference, max_relative_difference
    from lightning_dynprune.base.integrity import (
        DamagedError,
        checksum,
        state_checksum,
        stores_entries,
        validate_checkpoint_file,
    )
    from lightning_dynprune.base.layer_types import BATCH_NORMS, CONVOLUTIONS, INSTANCE_NORMS
    from lightning_dynprune.base.model_call import call_model, split_arguments
    from lightning_dynprune.base.nested import map_tensors, nested_tensors
    from lightning_dynprune.base.palette import PALETTE
    from lightning_dynprune.base.registry import Registry
    from lightning_dynprune.base.text import did_you_mean, name_some, printable
    from lightning_dynprune.base.zip_archive import open_archive
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lightning_dynprune.base.atomic": [
                "remove_temporary_files",
                "write_atomically",
                "write_json",
                "write_text",
            ],
            "lightning_dynprune.base.bits": ["compare_to_bool", "count_true", "integer_view", "true_positions"],
            "lightning_dynprune.base.bounded_json": ["parse_json", "read_json"],
            "lightning_dynprune.base.checks": [
                "check_count",
                "check_flag",
                "check_real",
                "check_share",
                "check_whole",
                "convert_settings",
                "is_number",
                "is_whole",
                "to_python",
            ],
            "lightning_dynprune.base.checkpoints": ["read_checkpoint"],
            "lightning_dynprune.base.differences": [
                "largest_magnitude",
                "max_absolute_difference",
                "max_relative_difference",
            ],
            "lightning_dynprune.base.integrity": [
                "DamagedError",
                "checksum",
                "state_checksum",
                "stores_entries",
                "validate_checkpoint_file",
            ],
            "lightning_dynprune.base.layer_types": ["BATCH_NORMS", "CONVOLUTIONS", "INSTANCE_NORMS"],
            "lightning_dynprune.base.model_call": ["call_model", "split_arguments"],
            "lightning_dynprune.base.nested": ["map_tensors", "nested_tensors"],
            "lightning_dynprune.base.palette": ["PALETTE"],
            "lightning_dynprune.base.registry": ["Registry"],
            "lightning_dynprune.base.text": ["did_you_mean", "name_some", "printable"],
            "lightning_dynprune.base.zip_archive": ["open_archive"],
        },
    )

__all__ = [
    "BATCH_NORMS",
    "CONVOLUTIONS",
    "INSTANCE_NORMS",
    "PALETTE",
    "DamagedError",
    "Registry",
    "call_model",
    "check_count",
    "check_flag",
    "check_real",
    "check_share",
    "check_whole",
    "checksum",
    "compare_to_bool",
    "convert_settings",
    "count_true",
    "did_you_mean",
    "integer_view",
    "is_number",
    "is_whole",
    "largest_magnitude",
    "lazy_names",
    "map_tensors",
    "max_absolute_difference",
    "max_relative_difference",
    "name_some",
    "nested_tensors",
    "open_archive",
    "parse_json",
    "printable",
    "read_checkpoint",
    "read_json",
    "remove_temporary_files",
    "split_arguments",
    "state_checksum",
    "stores_entries",
    "to_python",
    "true_positions",
    "validate_checkpoint_file",
    "write_atomically",
    "write_json",
    "write_text",
]
