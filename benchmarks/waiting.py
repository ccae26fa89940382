"""How long does a user wait: for an import, for help, for a refusal, for the first step, and for coupled channels?

    OMP_NUM_THREADS=1 python benchmarks/waiting.py  # ~4 minutes
    OMP_NUM_THREADS=1 python benchmarks/waiting.py --rounds 3

Each case starts a new interpreter, and so does what it is compared with: the imports that it cannot do without. All of
them alternate, and each is timed by the CPU time of its process. *First step* trains one step with the callback, and
the same without it. *Coupling* finds the coupled channels of a U-Net with verification, and its base only makes the
network.

Prints one table with each aim; writes the medians as JSON.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timing
from rich.box import SIMPLE_HEAD
from rich.table import Table

ROOT = Path(__file__).parents[1]
PROGRAM = "import sys; sys.argv = ['dynprune', *{arguments}]; from lightning_dynprune.app.main import run; run()"
HYDRA = "import hydra"
TRAINING = """
import lightning as L, torch, warnings
from torch.utils.data import DataLoader, TensorDataset
warnings.simplefilter("ignore")
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 64)
    def training_step(self, batch, index):
        return self.layer(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
callbacks = []
{callback}
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = L.Trainer(max_steps=1, accelerator="cpu", callbacks=callbacks, **quiet)
trainer.fit(Net(), DataLoader(TensorDataset(torch.randn(64, 64)), batch_size=8))
"""
CALLBACK = """
from lightning_dynprune import DynamicPruning
callbacks.append(DynamicPruning(sparsity=0.5, schedule={"name": "one_shot", "begin": 1}))
"""
U_NET = "import sys, torch; sys.path.insert(0, {root!r}); from tests.convnets import UNet; net = UNet()"
COUPLED = "; from lightning_dynprune.coupling import coupled_groups; coupled_groups(net, torch.randn(1, 3, 32, 32))"


@dataclass(frozen=True)
class Case:
    """One wait and what it is compared with.

    Args:
        code: what the interpreter runs.
        base: what it cannot do without.
        aim: largest accepted ratio of both.
        base_name: what the base is, in words.
    """

    code: str
    base: str
    aim: float
    base_name: str


CASES = {
    "import lightning_dynprune": Case("import lightning_dynprune", HYDRA, 1.0, "import hydra"),
    "dynprune --help": Case(PROGRAM.format(arguments=["--help"]), HYDRA, 2.0, "import hydra"),
    "dynprune --cfg job": Case(PROGRAM.format(arguments=["--cfg", "job"]), HYDRA, 3.0, "import hydra"),
    "dynprune sparsity=90": Case(PROGRAM.format(arguments=["sparsity=90"]), HYDRA, 3.0, "import hydra"),
    "first step": Case(
        TRAINING.format(callback=CALLBACK), TRAINING.format(callback=""), 1.25, "the same without the callback"
    ),
    "coupling of a U-Net": Case(
        U_NET.format(root=str(ROOT)) + COUPLED, U_NET.format(root=str(ROOT)), 1.5, "the network"
    ),
}


def child_seconds(code: str, folder: str) -> float:
    """Return the CPU seconds of a new interpreter that runs ``code`` in ``folder``; it may refuse with status 1."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if "Traceback" in done.stderr:
        raise RuntimeError(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(cases: dict[str, Case], rounds: int) -> dict[str, dict[str, Any]]:
    """Return the seconds of each case and of its base, their ratio, and whether the aim is met."""
    with tempfile.TemporaryDirectory() as folder:
        codes = list(dict.fromkeys(code for case in cases.values() for code in (case.code, case.base)))
        seconds = timing.interleaved({code: lambda c=code: child_seconds(c, folder) for code in codes}, rounds)
    return {name: judged(case, seconds[case.code], seconds[case.base]) for name, case in cases.items()}


def judged(case: Case, seconds: list[float], base: list[float]) -> dict[str, Any]:
    """Return the figures of a case from the seconds of each round."""
    ratio = timing.ratio_summary(seconds, base)
    return {
        "seconds": timing.summary(seconds),
        "base": timing.summary(base),
        "base_name": case.base_name,
        "ratio": ratio,
        "aim": case.aim,
        "met": ratio["median"] <= case.aim,
    }


def table(found: dict[str, dict[str, Any]]) -> Table:
    """Return the table of all cases."""
    made = Table(box=SIMPLE_HEAD, title="CPU seconds, medians", title_justify="left")
    for heading in ("wait", "seconds", "compared with", "seconds", "ratio", "aim", "met"):
        made.add_column(heading, justify="left" if heading in ("wait", "compared with") else "right")
    for name, row in found.items():
        cells = (f"{row['seconds']['median']:.2f}", row["base_name"], f"{row['base']['median']:.2f}")
        made.add_row(name, *cells, f"{row['ratio']['median']:.2f}", f"{row['aim']:g}", "yes" if row["met"] else "no")
    return made


def main() -> None:
    """Measure all cases, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=timing.RESULTS / "waiting.json", help=timing.OUT_HELP)
    arguments = parser.parse_args()
    found = measure(CASES, arguments.rounds)
    timing.console().print(table(found))
    timing.write(arguments.out, rounds=arguments.rounds, waits=found)


if __name__ == "__main__":
    main()
