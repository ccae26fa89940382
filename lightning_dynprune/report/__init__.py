"""Tables and figures of a run, a sweep or a measured model, made from plain data.

May import deploy/ and the rooms below it, rich and matplotlib.
"""

from typing import TYPE_CHECKING

from lightning_dynprune.base import lazy_names

if TYPE_CHECKING:
    from lightning_dynprune.report.compute_figure import draw_compute_per_input
    from lightning_dynprune.report.deploy_tables import deploy_table, preflight_table
    from lightning_dynprune.report.figures import draw_pareto, draw_run
    from lightning_dynprune.report.run_tables import run_table
    from lightning_dynprune.report.sweep_rows import SweepRow
    from lightning_dynprune.report.sweep_tables import progress_line, sweep_table, write_summary
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lightning_dynprune.report.compute_figure": ["draw_compute_per_input"],
            "lightning_dynprune.report.deploy_tables": ["deploy_table", "preflight_table"],
            "lightning_dynprune.report.figures": ["draw_pareto", "draw_run"],
            "lightning_dynprune.report.run_tables": ["run_table"],
            "lightning_dynprune.report.sweep_rows": ["SweepRow"],
            "lightning_dynprune.report.sweep_tables": ["progress_line", "sweep_table", "write_summary"],
        },
    )

__all__ = [
    "SweepRow",
    "deploy_table",
    "draw_compute_per_input",
    "draw_pareto",
    "draw_run",
    "preflight_table",
    "progress_line",
    "run_table",
    "sweep_table",
    "write_summary",
]
