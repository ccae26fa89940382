"""How long do finding coupled channels and slimming take, compared with Torch-Pruning?

    OMP_NUM_THREADS=1 python benchmarks/coupling.py  # ~5 minutes
    OMP_NUM_THREADS=1 python benchmarks/coupling.py --short  # U-Net and MobileNetV2, few rounds

*Coupling* is `coupled_groups` with `verify=False`, and Torch-Pruning's dependency graph with all its groups. *Verified*
is `coupled_groups` as a pruner calls it, which also runs the model with and without half of the channels; the graph is
never verified, so this has no aim. *Slimming* is `deploy.slim` of a network in which every second channel is zero, with
the search for units that do nothing and the comparison of outputs, and Torch-Pruning's pruner, which removes half of
all channels and compares nothing. Each turn takes a new copy of the network; all turns alternate in one process on one
thread, timed by CPU time.

Prints one table and each aim with the measured value; writes the medians as JSON.
"""

from __future__ import annotations

import argparse
import copy
import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timing
import torch
import torch_pruning
from models import resnet_18
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

from lightning_dynprune.app.models import ConvNet
from lightning_dynprune.coupling import Narrowing, coupled_groups
from lightning_dynprune.deploy import slim

sys.path.append(str(Path(__file__).parents[1]))
from tests.convnets import MobileNetV2, ResNeXt, ShuffleNetV2, UNet

AIM = 2.0
AIMED = ("U-Net", "MobileNetV2")
OURS, THEIRS = "ours", "Torch-Pruning"
TASKS = ("coupling", "verified", "slimming")
AIMED_TASKS = ("coupling", "slimming")
BASE = {"verified": "coupling"}  # what of Torch-Pruning a task is compared with
TRANSFORMER = {"vocab_size": 1000, "attn_implementation": "eager"}


def bert() -> nn.Module:
    """Return a BERT of four layers of width 256."""
    import transformers

    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    return transformers.BertModel(transformers.BertConfig(**sizes, **TRANSFORMER))


def gpt_2() -> nn.Module:
    """Return a GPT-2 of four layers of width 256."""
    import transformers

    sizes = {"n_embd": 256, "n_layer": 4, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.GPT2Model(transformers.GPT2Config(**sizes, **TRANSFORMER))


@dataclass(frozen=True)
class Case:
    """A network and what it is run on.

    Attributes:
        build: returns the network.
        example: returns its input.
    """

    build: Callable[[], nn.Module]
    example: Callable[[], Any]


def tokens() -> dict[str, torch.Tensor]:
    """Return 16 tokens as the keyword arguments of a transformer."""
    return {"input_ids": torch.randint(1000, (1, 16))}


CASES = {
    "U-Net": Case(UNet, lambda: torch.randn(1, 3, 64, 64)),
    "MobileNetV2": Case(MobileNetV2, lambda: torch.randn(1, 3, 224, 224)),
    "ConvNet": Case(lambda: ConvNet((1, 28, 28), 10), lambda: torch.randn(1, 1, 28, 28)),
    "ResNet-18": Case(resnet_18, lambda: torch.randn(1, 3, 32, 32)),
    "ResNeXt-50": Case(ResNeXt, lambda: torch.randn(1, 3, 64, 64)),
    "ShuffleNetV2": Case(ShuffleNetV2, lambda: torch.randn(1, 3, 64, 64)),
    "BERT, 4 layers of 256": Case(bert, tokens),
    "GPT-2, 4 layers of 256": Case(gpt_2, tokens),
}


def without_half(network: nn.Module, example: Any) -> nn.Module:
    """Set every second channel of each group to zero."""
    groups = coupled_groups(network, example).groups
    Narrowing(network).zero(groups, [torch.arange(group.units) % 2 == 0 for group in groups])
    return network


def last_layers(network: nn.Module) -> list[nn.Module]:
    """Return the layer whose outputs a network returns, which Torch-Pruning has to be told to keep."""
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.LayerNorm))]
    return layers[-1:]


def graph_of(network: nn.Module, example: Any) -> None:
    """Find all groups by Torch-Pruning."""
    graph = torch_pruning.DependencyGraph().build_dependency(network, example, ignored_layers=last_layers(network))
    list(graph.get_all_groups(ignored_layers=last_layers(network)))


def prune(network: nn.Module, example: Any) -> None:
    """Remove half of all channels by Torch-Pruning."""
    importance, ignored = torch_pruning.importance.MagnitudeImportance(), last_layers(network)
    settings = {"importance": importance, "pruning_ratio": 0.5, "ignored_layers": ignored}
    torch_pruning.pruner.MagnitudePruner(network, example, **settings).step()


def turns_of(case: Case) -> Iterator[tuple[str, str, Callable[[], float]]]:
    """Yield task, contender, and a function that runs one turn on a new copy and returns its CPU seconds."""
    torch.manual_seed(0)
    dense, example = case.build().eval(), case.example()
    pruned = without_half(copy.deepcopy(dense), example)
    for task, who, network, call in (
        ("coupling", OURS, dense, lambda net: coupled_groups(net, example, verify=False)),
        ("coupling", THEIRS, dense, lambda net: graph_of(net, example)),
        ("verified", OURS, dense, lambda net: coupled_groups(net, example)),
        ("slimming", OURS, pruned, lambda net: slim(net, example)),
        ("slimming", THEIRS, dense, lambda net: prune(net, example)),
    ):

        def turn(network: nn.Module = network, call: Callable[[nn.Module], Any] = call) -> float:
            mine = copy.deepcopy(network)
            gc.collect()  # no turn pays for what another one left
            return timing.cpu_seconds(lambda: call(mine))

        yield task, who, turn


def measured(case: Case, rounds: int) -> dict[str, dict[str, Any]]:
    """Return for each task and contender the summary of its seconds, or the error that it ended with.

    Where both ended well, ``ratio`` summarizes our time over theirs, round by round.
    """
    turns, found = {}, {task: {} for task in TASKS}
    for task, who, turn in turns_of(case):
        try:
            turn()
        except Exception as error:  # of another package, on a network that it does not support
            if who == OURS:
                raise
            found[task][who] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            turns[task, who] = turn
    seconds = timing.interleaved(turns, rounds)
    for (task, who), values in seconds.items():
        found[task][who] = timing.summary(values)
    for task in TASKS:
        same = (BASE.get(task, task), THEIRS)
        if same in seconds:
            found[task]["ratio"] = timing.ratio_summary(seconds[task, OURS], seconds[same])
    return found


def table(results: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """Return the table: one row per network, with all tasks side by side."""
    shown = Table(title="CPU milliseconds, median; and our time over Torch-Pruning's, with quartiles", box=SIMPLE_HEAD)
    shown.add_column("network")
    for task in TASKS:
        for heading in (task, *([] if task in BASE else [THEIRS]), "ratio"):
            shown.add_column(heading, justify="right")
    for name, tasks in results.items():
        cells = []
        for task in TASKS:
            theirs, ratio = tasks[task].get(THEIRS), tasks[task].get("ratio")
            cells.append(f"{tasks[task][OURS]['median'] * 1e3:.0f}")
            if theirs is not None:
                cells.append("fails" if isinstance(theirs, str) else f"{theirs['median'] * 1e3:.0f}")
            cells.append(
                "-" if ratio is None else f"[bold]{ratio['median']:.2f}[/bold] ({ratio['q1']:.2f}-{ratio['q3']:.2f})"
            )
        shown.add_row(name, *cells)
    return shown


def reached(results: dict[str, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return each aim with the measured ratio."""
    found = []
    for name in AIMED:
        for task in AIMED_TASKS:
            ratio = results[name][task]["ratio"]["median"]
            found.append({"case": name, "task": task, "aim": AIM, "reached": ratio, "met": ratio <= AIM})
    return found


def main() -> None:
    """Run the benchmark from the command line: measure, print the table, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--short", action="store_true", help="only the networks that have an aim, few rounds")
    options.add_argument("--out", type=Path, default=timing.RESULTS / "coupling.json", help=timing.OUT_HELP)
    chosen = options.parse_args()
    timing.use_one_thread()
    warnings.filterwarnings("ignore")
    console = timing.console()
    results = {}
    for name, case in CASES.items():
        if not chosen.short or name in AIMED:
            with console.status(name):
                results[name] = measured(case, rounds=3 if chosen.short else 15)
    console.print(table(results))
    aims = reached(results)
    for aim in aims:
        verdict = "met" if aim["met"] else "MISSED"
        console.print(
            f"{aim['case']}, {aim['task']}: aim at most {AIM:g}x Torch-Pruning, {verdict} with {aim['reached']:.2f}x"
        )
    timing.write(chosen.out, question=__doc__.splitlines()[0], cases=results, aims=aims)
    console.print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
