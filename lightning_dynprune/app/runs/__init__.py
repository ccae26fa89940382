"""The folder of a run: its lock, records, checkpoint, weights, and how it is resumed.

May import every room.
"""

from lightning_dynprune.app.runs.records import is_curve, read_control, read_failure, read_results
from lightning_dynprune.app.runs.resume import (
    ResumeRefused,
    expand_resume,
    find_checkpoint,
    read_run,
    refuse_changes,
    resume_command,
)
from lightning_dynprune.app.runs.rng_state import random_state, restore_random_state
from lightning_dynprune.app.runs.run_folder import PHASES, RunFolder
from lightning_dynprune.app.runs.run_lock import FolderInUse, sole_run
from lightning_dynprune.app.runs.run_weights import dense_file, expand_checkpoint, load_weights, weights_file

__all__ = [
    "PHASES",
    "FolderInUse",
    "ResumeRefused",
    "RunFolder",
    "dense_file",
    "expand_checkpoint",
    "expand_resume",
    "find_checkpoint",
    "is_curve",
    "load_weights",
    "random_state",
    "read_control",
    "read_failure",
    "read_results",
    "read_run",
    "refuse_changes",
    "restore_random_state",
    "resume_command",
    "sole_run",
    "weights_file",
]
