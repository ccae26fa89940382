"""Which strategy keeps the most accuracy with the same number of epochs?

    python benchmarks/strategies.py               # trains what is missing, then prints the table and draws
    python benchmarks/strategies.py --only 'ConvNet, rigl*'
    python benchmarks/strategies.py --table       # from results/strategies.json

Every strategy, Lightning's ``ModelPruning`` and a small dense network with as many parameters as the pruned one train
on Fashion-MNIST at 90, 95, 98 and 99 % with 3 seeds, with the same code, optimizer, batches and 8 epochs; so does the
dense baseline. LeNet-300-100 trains on 55,000 images, the ConvNet on 10,000, to limit the time on a CPU. No strategy
is tuned: each has the defaults of its files in ``conf``, except for the settings in METHODS, which are the same at
each sparsity.

Prints a Markdown table of test accuracies, the mean and half the range over the seeds, and draws the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import narrow
import runs
import timing
from runs import Record, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lightning_dynprune.app.interrupt import StopRequest

SPARSITIES = (0.9, 0.95, 0.98, 0.99)
SEEDS = (0, 1, 2)
DENSE = "dense"


@dataclass(frozen=True)
class Method:
    """A method to compare: one line of the figure.

    Args:
        settings: overrides of the program.
        kind: how the masks can change, which sets the line's colour.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "hard"


# Threshold and schedule are the strategy's defaults: for most a global cut along a cubic schedule.
METHODS = {
    "magnitude": Method({"strategy": "magnitude"}),
    "taylor": Method({"strategy": "taylor"}),
    "movement": Method({"strategy": "movement"}),
    "wanda": Method({"strategy": "wanda"}),
    "sigmoid": Method({"strategy": "sigmoid"}),
    "random": Method({"strategy": "random"}),
    "surgery": Method({"strategy": "surgery"}, "returning"),
    "straight_through": Method({"strategy": "straight_through"}, "returning"),
    "acdc": Method({"strategy": "magnitude", "schedule": "acdc"}, "returning"),
    "rigl": Method({"strategy": "rigl"}, "from the start"),
    "set": Method({"strategy": "set"}, "from the start"),
    "static": Method({"strategy": "static"}, "from the start"),
    "snip": Method({"strategy": "snip"}, "from the start"),
    "ModelPruning": Method(kind="peer"),
    "small dense": Method(kind="peer"),
}
KINDS = {
    "hard": ("#0b6e99", "gradual, what is pruned stays pruned"),
    "returning": ("#c8553d", "gradual, pruned connections may return"),
    "from the start": ("#5b8c5a", "sparse from the first step"),
    "peer": ("#374151", "not of this package"),
}
BAND = "#9ca3af"
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (10, 2)), (0, (2.5, 2.5)))
DEPTH = 3.5  # errors up to this many times the dense one are drawn; worse ones would press the rest together
COMMON = {
    "data": "fashion_mnist",
    "lr_schedule": "cosine",
    "trainer.max_epochs": 8,
    "+trainer.check_val_every_n_epoch": 8,
    "checkpoint.every_n_steps": 5000,  # an epoch's end is saved besides
}
NETS = {
    "LeNet-300-100": {**COMMON, "model": "lenet_300_100", "data.batch_size": 128},
    # 50,000 images are held out, of which the first 5,000 measure the validation error. Of rates from 1e-3 to 2e-2 and
    # batches of 64 and 128 these gave magnitude the lowest one at 95 %.
    "ConvNet": {
        **COMMON,
        "model": "convnet",
        "optimizer.lr": 1.0e-2,
        "data.batch_size": 64,
        "data.holdout": 50_000,
        "+trainer.limit_val_batches": 5,
    },
}
SHORT = {
    "data.holdout": 55_000,
    "trainer.max_epochs": 2,
    "+trainer.check_val_every_n_epoch": 2,
    "+trainer.limit_val_batches": 2,
}


def model_pruning(settings: Mapping[str, Any], folder: Path, stop: StopRequest) -> Record:
    """Train with Lightning's ModelPruning, which prunes after every epoch to the sparsity of this package's schedule.

    Each call prunes the share of the kept connections that leads to the scheduled sparsity. Only weights are pruned, as
    by this package. The callback saves no state in a checkpoint, so a killed run starts again.
    """
    import torch
    from hydra.utils import instantiate
    from lightning.pytorch.callbacks import ModelPruning
    from torch import nn

    from lightning_dynprune.app.callbacks import History
    from lightning_dynprune.app.tasks.training_phase import new_classifier, new_trainer

    cfg, place = runs.composed(settings, folder)
    torch.set_num_threads(cfg.threads)
    data = instantiate(cfg.data)
    module, history = new_classifier(cfg), History()
    # ModelPruning calls torch's global pruning, which fails on weights in channels_last format.
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()
    weights = [(layer, "weight") for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    amounts = amounts_by_epoch(cfg.sparsity, cfg.trainer.max_epochs)
    pruning = ModelPruning(
        "l1_unstructured",
        weights,
        use_global_unstructured=True,
        amount=lambda epoch: amounts[epoch],
        use_lottery_ticket_hypothesis=False,
    )
    trainer = new_trainer("pruned", cfg, place, [history, pruning])
    trainer.fit(module, datamodule=data)
    (tested,) = trainer.test(module, datamodule=data, verbose=False)
    parameters = [parameter.detach() for parameter in module.network.parameters()]
    nonzero = sum(int(parameter.count_nonzero()) for parameter in parameters)
    kept, connections = (sum(count) for count in zip(*map(_kept, weights), strict=True))
    size = sum(parameter.numel() for parameter in parameters)
    return {
        "test_error": 1 - tested["test_acc"],
        "val_error": 1 - history.accuracy_points[-1][1],
        "sparsity": 1 - kept / connections,
        "nonzero": nonzero,
        "parameters": size,
        "compression": size / nonzero,
        "steps": trainer.global_step,
        "seed": cfg.seed,
        "epochs": cfg.trainer.max_epochs,
        "seconds": history.seconds,
    }


def _kept(weight: tuple[Any, str]) -> tuple[int, int]:
    tensor = getattr(*weight)
    return int(tensor.count_nonzero()), tensor.numel()


def amounts_by_epoch(sparsity: float, epochs: int) -> list[float]:
    """Return the share of the kept connections to prune after each epoch, to follow the default schedule.

    Example:
        >>> [round(amount, 3) for amount in amounts_by_epoch(0.9, 8)]
        [0.0, 0.0, 0.52, 0.557, 0.463, 0.123, 0.0, 0.0]
    """
    from lightning_dynprune.schedules import Clock, Cubic, Horizon

    schedule = Cubic(sparsity, every="1 epoch").resolve(Horizon(epochs=epochs))
    reached = [schedule.value(Clock(epoch=epoch)) for epoch in range(epochs + 1)]
    return [1 - (1 - now) / (1 - before) for before, now in pairwise(reached)]


def runs_of(short: bool) -> list[Run]:
    """Return all runs: the dense baselines first, then ordered by seed, so that one seed is complete early."""
    made = []
    for seed in SEEDS[:1] if short else SEEDS:
        for net, of_net in NETS.items():
            settings = {**of_net, "seed": seed, **(SHORT if short else {})}
            made.append(Run(name(net, DENSE, None, seed), settings, runs.dense))
            for label, method in METHODS.items():
                for sparsity in SPARSITIES[1:2] if short else SPARSITIES:
                    made.append(_run(net, label, method, sparsity, settings))
    return made


def _run(net: str, label: str, method: Method, sparsity: float, settings: Mapping[str, Any]) -> Run:
    title = name(net, label, sparsity, settings["seed"])
    if label == "small dense":
        return Run(title, {**settings, **small(net, sparsity)}, runs.dense)
    train = model_pruning if label == "ModelPruning" else runs.pruned
    return Run(title, {**settings, **method.settings, "sparsity": sparsity, "dense": False}, train)


def small(net: str, sparsity: float) -> dict[str, Any]:
    """Return the overrides for a dense network with as many parameters as the pruned one keeps."""
    if net == "ConvNet":
        widths = list(narrow.convnet_widths(sparsity))
        return {"model._target_": "narrow.NarrowConvNet", "model.width": widths}
    return {"model._target_": "narrow.NarrowLeNet", "+model.widths": list(narrow.lenet_widths(sparsity))}


def name(net: str, label: str, sparsity: float | None, seed: int) -> str:
    """Return the name of a run."""
    share = "" if sparsity is None else f", {100 * sparsity:g} %"
    return f"{net}, {label}{share}, seed {seed}"


def accuracies(records: Mapping[str, Record], net: str, label: str, sparsity: float | None) -> list[float]:
    """Return the test accuracies, in percent, of the finished seeds."""
    names = [name(net, label, sparsity, seed) for seed in SEEDS]
    return [100 * (1 - records[found]["test_error"]) for found in names if found in records]


def table(records: Mapping[str, Record]) -> str:
    """Return a Markdown table for each network; the best mean of a column is bold."""
    parts = []
    for net in NETS:
        settings = next((record["settings"] for key, record in records.items() if key.startswith(f"{net},")), NETS[net])
        images = 60_000 - settings.get("data.holdout", 5_000)
        control = accuracies(records, net, DENSE, None)
        shown = f"dense: {cell(control)}" if control else "the dense baseline is not finished"
        head = [f"{net}, {settings['trainer.max_epochs']} epochs of {images:,} images; {shown}", ""]
        head.append("| " + " | ".join(["", *[f"{100 * sparsity:g} %" for sparsity in SPARSITIES]]) + " |")
        head.append("| --- |" + " --- |" * len(SPARSITIES))
        found = {label: [accuracies(records, net, label, s) for s in SPARSITIES] for label in METHODS}
        columns = zip(*found.values(), strict=True)
        best = [max((round(statistics.fmean(a), 2) for a in column if a), default=None) for column in columns]
        for label, row in found.items():
            cells = [cell(values, top) for values, top in zip(row, best, strict=True)]
            head.append(f"| {label} | " + " | ".join(cells) + " |")
        parts.append("\n".join(head))
    return "\n\n".join(parts)


def cell(values: Sequence[float], best: float | None = None) -> str:
    """Return the mean and half the range, in bold if the mean is the best one, or a dash if no run is finished.

    Example:
        >>> cell([88.0, 89.0], best=88.5), cell([88.0]), cell([])
        ('**88.50** ± 0.50', '88.00', '-')
    """
    if not values:
        return "-"
    mean = statistics.fmean(values)
    shown = f"**{mean:.2f}**" if best == round(mean, 2) else f"{mean:.2f}"
    return shown if len(values) == 1 else f"{shown} ± {(max(values) - min(values)) / 2:.2f}"


def draw(records: Mapping[str, Record], path: Path) -> None:
    """Draw accuracy over sparsity: one panel per network, one line per method with its range, the control as a band.

    The accuracy axis is logarithmic in the error, which separates the best methods; the sparsity axis in the density. A
    line that leaves the panel is labelled at its lower edge, with its last value.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from lightning_dynprune.base import write_atomically

    figure = Figure(figsize=(13, 7.2))
    figure.subplots_adjust(left=0.055, right=0.86, bottom=0.125, top=0.855, wspace=0.42)
    for axes, net in zip(figure.subplots(1, len(NETS)), NETS, strict=True):
        _draw_net(axes, records, net)
    keys = [Patch(color=color, label=meaning) for color, meaning in KINDS.values()]
    keys.append(Patch(color=BAND, alpha=0.5, label="dense, the whole network"))
    figure.legend(handles=keys, loc="lower center", ncols=len(keys), frameon=False, fontsize=9, handlelength=1.2)
    figure.text(0.055, 0.955, "What each strategy keeps of the accuracy, at equal epochs", fontsize=14, weight="bold")
    finished = {len(accuracies(records, net, label, s)) for net in NETS for label in METHODS for s in SPARSITIES} - {0}
    seeds = " to ".join(str(count) for count in sorted({min(finished, default=0), max(finished, default=0)}))
    figure.text(
        0.055,
        0.925,
        f"Test accuracy on Fashion-MNIST, mean and range of {seeds} seeds",
        fontsize=10,
        color="#4b5563",
    )
    write_atomically(path, lambda scratch: figure.savefig(scratch, dpi=150, facecolor="white"))


def _draw_net(axes: Axes, records: Mapping[str, Record], net: str) -> None:
    control = [100 - accuracy for accuracy in accuracies(records, net, DENSE, None)]
    lines = {
        label: [(1 - s, [100 - a for a in found]) for s in SPARSITIES if (found := accuracies(records, net, label, s))]
        for label in METHODS
    }
    errors = control + [error for points in lines.values() for _, found in points for error in found]
    _set_axes(axes, net, errors, statistics.fmean(control) if control else None)
    if control:
        middle, half = statistics.fmean(control), (max(control) - min(control)) / 2
        axes.axhspan(middle - max(half, 0.05), middle + max(half, 0.05), color=BAND, alpha=0.35, linewidth=0)
        axes.axhline(middle, color="#6b7280", linewidth=1.0, linestyle="--")
        spot = {"textcoords": "offset points", "va": "bottom", "ha": "right", "color": "#4b5563", "fontsize": 9}
        axes.annotate(f"dense: {100 - middle:.1f} %", (axes.get_xlim()[1], middle), (0, 3), **spot)
    used = dict.fromkeys(KINDS, 0)
    ends = []
    for label, points in lines.items():
        kind = METHODS[label].kind
        dash, color = DASHES[used[kind]], KINDS[kind][0]
        used[kind] += 1
        if not points:
            continue
        kept, means = [x for x, _ in points], [statistics.fmean(found) for _, found in points]
        axes.plot(kept, means, color=color, linestyle=dash, linewidth=1.7, marker="o", markersize=3.5)
        low, high = [min(found) for _, found in points], [max(found) for _, found in points]
        axes.fill_between(kept, low, high, color=color, alpha=0.12, linewidth=0)
        ends.append((kept[-1], means[-1], label, color))
    _label_ends(axes, ends)


def _set_axes(axes: Axes, net: str, errors: Sequence[float], control: float | None) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(0.106, 0.0096)
    axes.set_yscale("log")
    if errors:
        worst = max(errors) if control is None else min(max(errors), DEPTH * control)
        axes.set_ylim(worst * 1.04, min(errors) * 0.96)
    axes.xaxis.set_major_locator(FixedLocator([1 - sparsity for sparsity in SPARSITIES]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda kept, _: f"{100 * (1 - kept):g} %"))
    axes.yaxis.set_major_locator(FixedLocator([5, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 25, 30, 40, 50, 60, 75, 90]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 - error:g} %"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9, labelcolor="#374151")
    axes.set_xlabel("sparsity", color="#374151")
    axes.set_title(net, loc="left", fontsize=11, weight="bold")


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Label each line at its end, with enough distance between labels and a thin leader line to each."""
    to_points = 72 / axes.figure.dpi
    bottom, top = (edge * to_points for edge in axes.get_window_extent().intervaly)
    heights = [axes.transData.transform((kept, error))[1] * to_points for kept, error, _, _ in ends]
    heights = [max(height, bottom) for height in heights]
    for number, placed in zip(*spread_out(heights, 12.0, bottom + 4, top), strict=True):
        kept, error, label, color = ends[number]
        below = error > axes.get_ylim()[0]
        lead = {"arrowstyle": "-", "color": color, "linewidth": 0.7, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 2}
        axes.annotate(
            f"{label} (at {100 - error:.0f} %)" if below else label,
            (kept, min(error, axes.get_ylim()[0])),
            (24, placed - heights[number]),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=9,
            arrowprops=None if below else lead,
            annotation_clip=False,
        )


def spread_out(heights: Sequence[float], gap: float, bottom: float, top: float) -> tuple[list[int], list[float]]:
    """Return the order of the heights and their positions, moved apart until adjacent ones are ``gap`` apart.

    Adjacent positions that overlap form a group around their mean; groups stay between ``bottom`` and ``top``.

    Example:
        >>> spread_out([50.0, 10.0, 11.0], gap=4.0, bottom=0.0, top=100.0)
        ([1, 2, 0], [8.5, 12.5, 50.0])
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    groups: list[list[float]] = []  # mean wanted, members
    for number in order:
        groups.append([heights[number], 1.0])
        while len(groups) > 1 and _begin(groups[-1], gap, bottom, top) < _end(groups[-2], gap, bottom, top) + gap:
            mean, count = groups.pop()
            groups[-1] = [
                (groups[-1][0] * groups[-1][1] + mean * count) / (groups[-1][1] + count),
                groups[-1][1] + count,
            ]
    placed = []
    for group in groups:
        placed += [_begin(group, gap, bottom, top) + gap * number for number in range(int(group[1]))]
    return order, placed


def _begin(group: Sequence[float], gap: float, bottom: float, top: float) -> float:
    room = gap * (group[1] - 1)
    return max(bottom, min(group[0] - room / 2, top - room))


def _end(group: Sequence[float], gap: float, bottom: float, top: float) -> float:
    return _begin(group, gap, bottom, top) + gap * (group[1] - 1)


def show(records: Mapping[str, Record], path: Path) -> None:
    """Print the tables and draw the figure beside the results."""
    print(f"\n{table(records)}\n")
    runs.draw_beside(path, records, draw)


if __name__ == "__main__":
    runs.command_line(__doc__, runs_of, timing.RESULTS / "strategies.json", show)
