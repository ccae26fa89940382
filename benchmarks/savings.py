"""How much time, memory and file size does pruning save at inference, compared with dense and with int8?

    OMP_NUM_THREADS=1 python benchmarks/savings.py  # ~5 minutes
    OMP_NUM_THREADS=1 python benchmarks/savings.py --short  # few rounds: two minutes

Each network is pruned at random: time depends on the number and shape of the zeros, not on their positions, and
accuracy is not measured here. ``measure`` then runs all variants: dense, pruned, slim, with the fastest kernels, and
the alternatives that prune nothing: dense in ONNX Runtime, and 8-bit weights there and in torch. All variants of a
network alternate in the same rounds in one process on one thread, timed by CPU time.

Prints one table, cases without a saving included, and each aim with the measured value; writes the reports as JSON.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timing
import torch
from models import GPT, lenet_300_100, resnet_18
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn

from lightning_dynprune.app.models import ConvNet
from lightning_dynprune.coupling import Narrowing, coupled_groups
from lightning_dynprune.deploy.forecast import randomly_pruned
from lightning_dynprune.deploy.measurement import DeployReport, measure
from lightning_dynprune.patterns import Block, Element, Pattern
from lightning_dynprune.targets import Targets, find_targets

DENSE, SLIM_ONNX, RIVALS = "dense", "slim, onnx", ("dense, onnx", "dense, onnx int8", "dense, torch int8")
OURS = ("pruned", "slim", "pruned, accelerated", "slim, accelerated")


@dataclass(frozen=True)
class Case:
    """A pruned network and its input.

    Args:
        model: returns the dense network.
        pruned: returns the same network with zeros.
        example: returns the inputs of one sample.
        batches: batch sizes.
        slims: whether the slim model is also measured in ONNX Runtime.
    """

    model: Callable[[], nn.Module]
    pruned: Callable[[nn.Module], nn.Module]
    example: Callable[[], Tensor]
    batches: tuple[int, ...] = (1, 32)
    slims: bool = False


def half_the_channels(model: nn.Module, example: Tensor) -> nn.Module:
    """Set every second channel of each coupled group to zero, in all layers that produce or read it."""
    groups = coupled_groups(model, example).groups
    Narrowing(model).zero(groups, [torch.arange(group.units) % 2 == 0 for group in groups])
    return model


def at_random(pattern: Pattern, sparsity: float, targets: Targets = None) -> Callable[[nn.Module], nn.Module]:
    """Return a function that sets a random share of a model's units to zero."""
    return lambda model: randomly_pruned(model, pattern, find_targets(model, targets), sparsity)


def linear() -> nn.Module:
    """Return a Linear of 1024 inputs and 4096 outputs."""
    return nn.Linear(1024, 4096)


IMAGE, TINY, ROW = (3, 32, 32), (1, 28, 28), (1024,)
LINEAR = "Linear 1024->4096"
CASES = {
    "ResNet-18, half the channels": Case(
        resnet_18,
        lambda model: half_the_channels(model, torch.randn(1, *IMAGE)),
        lambda: torch.randn(1, *IMAGE),
        slims=True,
    ),
    "ConvNet, half the channels": Case(
        lambda: ConvNet(TINY, 10),
        lambda model: half_the_channels(model, torch.randn(1, *TINY)),
        lambda: torch.randn(1, *TINY),
        slims=True,
    ),
    **{
        f"{LINEAR}, block 32x1, {sparsity:.0%}": Case(
            linear, at_random(Block(32, 1), sparsity), lambda: torch.randn(1, *ROW)
        )
        for sparsity in (0.5, 0.7, 0.8, 0.9)
    },
    f"{LINEAR}, element, 90%": Case(linear, at_random(Element(), 0.9), lambda: torch.randn(1, *ROW)),
    "LeNet-300-100, element, 98%": Case(
        lenet_300_100, at_random(Element(), 0.98), lambda: torch.randn(1, *TINY), slims=True
    ),
    **{
        f"GPT 10.7 M, MLP block 32x1, 70%, length {length}": Case(
            GPT, at_random(Block(32, 1), 0.7, "*.feed_*.weight"), lambda length=length: sequence(length), (1,)
        )
        for length in (1, 64)
    },
}
SHORT = ("ConvNet", f"{LINEAR}, block 32x1, 80%", f"{LINEAR}, element", "LeNet")


def sequence(length: int) -> Tensor:
    """Return tokens ``(1, length)``."""
    return torch.randint(65, (1, length))


# case, batch size, the variant to compare with, ratio to reach
AIMS = [
    ("ResNet-18, half the channels", 1, DENSE, 2.7),
    (f"{LINEAR}, block 32x1, 50%", 1, DENSE, 3.0),
    (f"{LINEAR}, block 32x1, 80%", 1, DENSE, 8.0),
    *((f"{LINEAR}, block 32x1, {sparsity}%", 1, rival, 1.0) for sparsity in (70, 80, 90) for rival in RIVALS[1:]),
    (f"{LINEAR}, element, 90%", 1, DENSE, 3.0),
    (f"{LINEAR}, element, 90%", 32, DENSE, 3.5),
    ("LeNet-300-100, element, 98%", 1, DENSE, 1.0),
    ("LeNet-300-100, element, 98%", 32, DENSE, 1.0),
    ("GPT 10.7 M, MLP block 32x1, 70%, length 1", 1, DENSE, 1.5),
    ("GPT 10.7 M, MLP block 32x1, 70%, length 64", 1, DENSE, 1.5),
]


def report_of(case: Case, seconds: float) -> DeployReport:
    """Measure all variants of a case."""
    dense = case.model().eval()
    example = case.example()
    pruned = case.pruned(case.model().eval())
    formats = ["onnx"] if case.slims else []
    settings = {"dense": dense, "dense_is_trained": False, "batches": case.batches, "formats": formats}
    return measure(pruned, example, seconds=seconds, **settings)


def best(report: DeployReport, batch: int) -> str:
    """Return the name of this package's fastest variant at a batch size.

    Example:
        >>> from lightning_dynprune.deploy.timing import Ratio
        >>> from lightning_dynprune.deploy.measurement import Row
        >>> rows = [Row(name, ratio={1: Ratio(fast, fast, fast, 9)}) for name, fast in (("pruned", 1.0), ("slim", 2.0))]
        >>> best(DeployReport(rows, (1,), "cpu", 1, "cpu"), 1)
        'slim'
    """
    ours = {row.name: row.ratio[batch].median for row in report.rows if row.name in OURS and batch in row.ratio}
    return max(ours, key=lambda name: ours[name])


def reached(reports: dict[str, DeployReport]) -> list[dict[str, Any]]:
    """Return each aim whose case was measured, with the value of this package's fastest variant.

    Against another variant the value is the quotient of the two ratios to dense.
    """
    found = []
    for name, batch, base, aim in AIMS:
        if name not in reports:
            continue
        report = reports[name]
        ours, theirs = report[best(report, batch)].ratio[batch], report[base].ratio.get(batch)
        ratio = None if theirs is None else ours.median / theirs.median
        met = None if ratio is None else ratio >= aim
        found.append({"case": name, "batch": batch, "against": base, "aim": aim, "reached": ratio, "met": met})
    return found


def table(reports: dict[str, DeployReport]) -> Table:
    """Return the table of savings: one row per case and batch size, with the speed-up over dense."""
    title = "Times as fast as torch dense in the same rounds, one thread; and what is left of memory, work and file"
    shown = Table(title=title, box=SIMPLE_HEAD)
    headings = (
        "pruned",
        "batch",
        "dense, ms",
        "our best",
        "(quartiles)",
        "slim ONNX",
        "ONNX",
        "ONNX int8",
        "torch int8",
    )
    for heading in (*headings, "memory", "MACs", "file, zstd"):
        shown.add_column(heading, justify="left" if heading in ("pruned", "our best") else "right")
    for name, report in reports.items():
        for batch in report.batches:
            form = report[best(report, batch)]
            dense, ratio = report[DENSE], form.ratio[batch]
            packed = [report[name].files for name in ("pruned", "slim")]
            shown.add_row(
                name,
                str(batch),
                f"{dense.latency[batch].median * 1e3:.3f}",
                form.name,
                f"[bold]{ratio.median:.2f}[/bold] ({ratio.low:.2f}-{ratio.high:.2f})",
                *(_ratio(report, form, batch) for form in (SLIM_ONNX, *RIVALS)),
                _share(form.memory.get(batch), dense.memory.get(batch)),
                _share(form.macs, dense.macs),
                _share(min(files["compact zstd"] for files in packed if files), dense.files["plain"]),
            )
    return shown


def _ratio(report: DeployReport, form: str, batch: int) -> str:
    ratio = next((row.ratio.get(batch) for row in report.rows if row.name == form), None)
    return "not measured" if ratio is None else f"{ratio.median:.2f}"


def _share(ours: int | None, dense: int | None) -> str:
    return "not measured" if ours is None or not dense else f"{100 * ours / dense:.0f} %"


def main() -> None:
    """Run the benchmark from the command line: measure, print the table, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--short", action="store_true", help="only the small cases, few rounds")
    options.add_argument("--out", type=Path, default=timing.RESULTS / "savings.json", help=timing.OUT_HELP)
    chosen = options.parse_args()
    timing.use_one_thread()
    warnings.filterwarnings("ignore", module="torch.*")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of each optional package that is missing
    torch.manual_seed(0)
    console = timing.console()
    console.width = max(console.width, 150)
    cases = {name: case for name, case in CASES.items() if not chosen.short or name.startswith(SHORT)}
    reports = {}
    for name, case in cases.items():
        with console.status(name):
            reports[name] = report_of(case, seconds=1.0 if chosen.short else 3.0)
    console.print(table(reports))
    aims = reached(reports)
    for aim in aims:
        said = (
            "NOT MEASURED" if aim["met"] is None else f"{'met' if aim['met'] else 'MISSED'} with {aim['reached']:.2f}x"
        )
        console.print(f"{aim['case']}, batch {aim['batch']}, to {aim['against']}: aim {aim['aim']:g}x, {said}")
    plain = {name: report.to_dict() for name, report in reports.items()}
    timing.write(chosen.out, question=__doc__.splitlines()[0], cases=plain, aims=aims)
    console.print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
