"""How far can the two LeNets be compressed on MNIST, and with which test error?

    python benchmarks/mnist_records.py            # trains what is missing, then prints the table
    python benchmarks/mnist_records.py --table    # prints it from results/records.json

The settings of the recipes (conf/recipe) were chosen by the error on 5,000 held-out training images; the test set is
used once per run. Compression is the number of parameters divided by the number of nonzero parameters, biases
included in both. LeNet-300-100 runs with 5 seeds, LeNet-5 (Caffe's shape) with 3, and each of them once without
pruning, with the recipe of its lower compression.

Prints a Markdown table of the means, with the range over the seeds, among the published figures.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import runs
import timing
from runs import Record, Run


@dataclass(frozen=True)
class Recipe:
    """A recipe of ``conf/recipe`` and the runs that measure it.

    Args:
        net: the network's name in the table.
        name: the recipe's name.
        seeds: number of seeds.
        aim: the mean test error to reach, in percent.
        control: also train it without pruning, for the first seed.
    """

    net: str
    name: str
    seeds: int
    aim: float | None = None
    control: bool = False


RECIPES = (
    Recipe("LeNet-300-100", "lenet_300_100_56x", 5, aim=1.90, control=True),
    Recipe("LeNet-300-100", "lenet_300_100_100x", 5, aim=2.36),
    Recipe("LeNet-5", "lenet5_108x", 3, control=True),
    Recipe("LeNet-5", "lenet5_250x", 3),
)
# Compression and test error in percent, as published unless the source says otherwise.
PUBLISHED = {
    "LeNet-300-100": (
        (12.0, 1.59, "Han et al. 2015"),
        (53.45, 1.99, "Surgery, Guo et al. 2016: the released weights, evaluated by us"),
        (20.0, 1.6, "SNIP, Lee et al. 2019"),
        (50.0, 2.4, "SNIP, Lee et al. 2019"),
        (23.0, 1.94, "Soft weight-sharing, Ullrich et al. 2017"),
        (68.0, 1.92, "Sparse variational dropout, Molchanov et al. 2017"),
        (100.0, 3.2, "LC, Carreira-Perpiñán and Idelbayev 2018"),
        (55.0, 1.98, "Sparse momentum, Dettmers and Zettlemoyer 2019"),
        (100.0, 2.36, "Sparse momentum, Dettmers and Zettlemoyer 2019"),
    ),
    "LeNet-5": (
        (12.0, 0.77, "Han et al. 2015"),
        (107.96, 0.91, "Surgery, Guo et al. 2016: the released weights, evaluated by us"),
        (50.0, 0.8, "SNIP, Lee et al. 2019"),
        (100.0, 1.1, "SNIP, Lee et al. 2019"),
        (200.0, 0.97, "Soft weight-sharing, Ullrich et al. 2017"),
        (280.0, 0.75, "Sparse variational dropout, Molchanov et al. 2017"),
        (100.0, 1.1, "LC, Carreira-Perpiñán and Idelbayev 2018"),
        (100.0, 0.83, "Sparse momentum, Dettmers and Zettlemoyer 2019"),
        (111.0, 0.89, "Sparse momentum, Dettmers and Zettlemoyer 2019"),
        (250.0, 1.40, "Sparse momentum, Dettmers and Zettlemoyer 2019"),
    ),
}
SHORT = {"trainer.max_epochs": 1, "data.holdout": 58000}


def runs_of(short: bool) -> list[Run]:
    """Return the runs of all recipes, ordered by seed."""
    made = []
    for recipe in RECIPES:
        for seed in range(1 if short else recipe.seeds):
            settings = {"data": "mnist", "recipe": recipe.name, "seed": seed, **(SHORT if short else {})}
            made.append(Run(run_name(recipe, seed), {**settings, "dense": False}))
            if recipe.control and seed == 0:
                made.append(Run(control_name(recipe.net), settings, runs.dense))
    return sorted(made, key=lambda run: run.settings["seed"])


def run_name(recipe: Recipe, seed: int) -> str:
    """Return the name of a recipe's run with one seed."""
    return f"{recipe.name}, seed {seed}"


def control_name(net: str) -> str:
    """Return the name of a network's run without pruning."""
    return f"{net} dense"


def table(records: Mapping[str, Record]) -> str:
    """Return the Markdown table, sorted by compression; rows of this package are bold."""
    lines = ["| network | compression | test error | of |", "| --- | --- | --- | --- |"]
    for net, published in PUBLISHED.items():
        rows = [(factor, f"| {net} | {factor:g}x | {error:.2f} % | {source} |") for factor, error, source in published]
        for recipe in (recipe for recipe in RECIPES if recipe.net == net):
            found = of_recipe(recipe, records)
            if found:
                factor = min(record["compression"] for record in found)
                ours = f"dynprune recipe={recipe.name}, {len(found)} seed{'s' * (len(found) > 1)}"
                rows.append((factor, f"| {net} | **{factor:.1f}x** | **{spread(found)}** | {ours} |"))
        if control := records.get(control_name(net)):
            error = 100 * control["test_error"]
            rows.append((1.0, f"| {net} | 1x | {error:.2f} % | without pruning, the same settings, 1 seed |"))
        lines += [line for _, line in sorted(rows, key=lambda row: row[0])]
    return "\n".join(lines)


def aims(records: Mapping[str, Record]) -> str:
    """Return one line for each recipe that has an aim or is not finished."""
    lines = []
    for recipe in RECIPES:
        found = of_recipe(recipe, records)
        if len(found) < recipe.seeds:
            lines.append(f"{recipe.name}: {len(found)} of {recipe.seeds} seeds are finished")
        if found and recipe.aim is not None:
            mean = 100 * statistics.fmean(record["test_error"] for record in found)
            met = "met" if mean <= recipe.aim else "MISSED"
            lines.append(f"{recipe.name}: the aim of {recipe.aim:.2f} % is {met} with {mean:.3f} %")
    return "\n".join(lines)


def of_recipe(recipe: Recipe, records: Mapping[str, Record]) -> list[Record]:
    """Return the records of a recipe's finished seeds."""
    names = [run_name(recipe, seed) for seed in range(recipe.seeds)]
    return [records[name] for name in names if name in records]


def spread(found: Sequence[Record]) -> str:
    """Return the mean test error, with its range if there are several seeds.

    Example:
        >>> spread([{"test_error": 0.018}, {"test_error": 0.020}])
        '1.90 % (1.80-2.00)'
    """
    errors = [100 * record["test_error"] for record in found]
    mean = f"{statistics.fmean(errors):.2f} %"
    return mean if len(errors) == 1 else f"{mean} ({min(errors):.2f}-{max(errors):.2f})"


def show(records: Mapping[str, Record], path: Path) -> None:
    """Print the table and the aims that are met."""
    print(f"\n{table(records)}\n")
    print(aims(records))


if __name__ == "__main__":
    runs.command_line(__doc__, runs_of, timing.RESULTS / "records.json", show)
