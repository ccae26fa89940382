"""The folder of a run: its lock, records, checkpoint and weights, and the command line that resumes it.

May import Hydra, ``app/compat.py`` and every room below app/.
"""

from typing import TYPE_CHECKING

from lightning_dynprune.base import lazy_names

if TYPE_CHECKING:
    from lightning_dynprune.app.runs.deploy_arguments import expand_checkpoint
    from lightning_dynprune.app.runs.folder_links import check_no_links, check_no_links_of_sweep
    from lightning_dynprune.app.runs.override_list import validate_overrides
    from lightning_dynprune.app.runs.recorded_settings import settings_digest, validate_same_settings
    from lightning_dynprune.app.runs.records import (
        REPORTED,
        is_curve,
        read_dense_record,
        read_failure,
        read_record,
        read_results,
    )
    from lightning_dynprune.app.runs.resumable import validate_resumable
    from lightning_dynprune.app.runs.resume import (
        ResumeError,
        expand_resume,
        find_checkpoint,
        quote_path,
        read_run,
        resume_command,
        safe_overrides,
        without_interpolation,
    )
    from lightning_dynprune.app.runs.rng_state import random_state, restore_random_state
    from lightning_dynprune.app.runs.run_folder import PHASES, RunFolder
    from lightning_dynprune.app.runs.run_lock import (
        FolderInUse,
        check_not_in_use,
        lock_run_folder,
        lock_sweep_folder,
        wait_for_lock,
    )
    from lightning_dynprune.app.runs.run_weights import (
        attach_per_input,
        dense_file,
        load_weights,
        per_input_file,
        weights_file,
    )
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lightning_dynprune.app.runs.deploy_arguments": ["expand_checkpoint"],
            "lightning_dynprune.app.runs.folder_links": ["check_no_links", "check_no_links_of_sweep"],
            "lightning_dynprune.app.runs.override_list": ["validate_overrides"],
            "lightning_dynprune.app.runs.recorded_settings": ["settings_digest", "validate_same_settings"],
            "lightning_dynprune.app.runs.records": [
                "REPORTED",
                "is_curve",
                "read_dense_record",
                "read_failure",
                "read_record",
                "read_results",
            ],
            "lightning_dynprune.app.runs.resumable": ["validate_resumable"],
            "lightning_dynprune.app.runs.resume": [
                "ResumeError",
                "expand_resume",
                "find_checkpoint",
                "quote_path",
                "read_run",
                "resume_command",
                "safe_overrides",
                "without_interpolation",
            ],
            "lightning_dynprune.app.runs.rng_state": ["random_state", "restore_random_state"],
            "lightning_dynprune.app.runs.run_folder": ["PHASES", "RunFolder"],
            "lightning_dynprune.app.runs.run_lock": [
                "FolderInUse",
                "check_not_in_use",
                "lock_run_folder",
                "lock_sweep_folder",
                "wait_for_lock",
            ],
            "lightning_dynprune.app.runs.run_weights": [
                "attach_per_input",
                "dense_file",
                "load_weights",
                "per_input_file",
                "weights_file",
            ],
        },
    )

__all__ = [
    "PHASES",
    "REPORTED",
    "FolderInUse",
    "ResumeError",
    "RunFolder",
    "attach_per_input",
    "check_no_links",
    "check_no_links_of_sweep",
    "check_not_in_use",
    "dense_file",
    "expand_checkpoint",
    "expand_resume",
    "find_checkpoint",
    "is_curve",
    "load_weights",
    "lock_run_folder",
    "lock_sweep_folder",
    "per_input_file",
    "quote_path",
    "random_state",
    "read_dense_record",
    "read_failure",
    "read_record",
    "read_results",
    "read_run",
    "restore_random_state",
    "resume_command",
    "safe_overrides",
    "settings_digest",
    "validate_overrides",
    "validate_resumable",
    "validate_same_settings",
    "wait_for_lock",
    "weights_file",
    "without_interpolation",
]
