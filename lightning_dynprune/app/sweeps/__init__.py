"""Sweeps: the record of a sweep's jobs, its report, and the command line that continues it.

May import Hydra, ``app/compat.py``, runs/ and every room below app/.
"""

from lightning_dynprune.app.sweeps.continuing import continue_sweep
from lightning_dynprune.app.sweeps.jobs import read_jobs, refusal_file
from lightning_dynprune.app.sweeps.sweep_record import SweepRecord
from lightning_dynprune.app.sweeps.sweep_report import SweepReport, report_stopped_sweep
from lightning_dynprune.app.sweeps.sweeping_process import stop_with_sweep

__all__ = [
    "SweepRecord",
    "SweepReport",
    "continue_sweep",
    "read_jobs",
    "refusal_file",
    "report_stopped_sweep",
    "stop_with_sweep",
]
