"""Tables and figures of a run, a sweep or a measured model, made from plain data.

May import deploy/ and the rooms below it, rich and matplotlib.
"""

from lightning_dynprune.report.deploy_tables import deploy_table, preflight_table
from lightning_dynprune.report.figures import draw_pareto, draw_run
from lightning_dynprune.report.run_tables import run_line, run_table
from lightning_dynprune.report.sweep_tables import SweepRow, sweep_table, write_summary
from lightning_dynprune.report.text import printable

__all__ = [
    "SweepRow",
    "deploy_table",
    "draw_pareto",
    "draw_run",
    "preflight_table",
    "printable",
    "run_line",
    "run_table",
    "sweep_table",
    "write_summary",
]
