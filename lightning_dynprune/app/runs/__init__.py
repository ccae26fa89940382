"""The folder of a run: its lock, records, checkpoint and weights, and the command line that resumes it.

May import Hydra, ``app/compat.py`` and every room below app/.
"""

from lightning_dynprune.app.runs.records import is_curve, read_dense_record, read_failure, read_results
from lightning_dynprune.app.runs.resume import (
    ResumeError,
    check_unchanged,
    expand_resume,
    find_checkpoint,
    read_run,
    resume_command,
)
from lightning_dynprune.app.runs.rng_state import random_state, restore_random_state
from lightning_dynprune.app.runs.run_folder import PHASES, RunFolder
from lightning_dynprune.app.runs.run_lock import FolderInUse, lock_run_folder
from lightning_dynprune.app.runs.run_weights import dense_file, expand_checkpoint, load_weights, weights_file

__all__ = [
    "PHASES",
    "FolderInUse",
    "ResumeError",
    "RunFolder",
    "check_unchanged",
    "dense_file",
    "expand_checkpoint",
    "expand_resume",
    "find_checkpoint",
    "is_curve",
    "load_weights",
    "lock_run_folder",
    "random_state",
    "read_dense_record",
    "read_failure",
    "read_results",
    "read_run",
    "restore_random_state",
    "resume_command",
    "weights_file",
]
