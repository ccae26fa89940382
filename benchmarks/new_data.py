"""Does a pruned network learn new data better if its masks can change?

    python benchmarks/new_data.py                 # trains what is missing, then prints the table
    python benchmarks/new_data.py --table         # prints it from results/new_data.json

LeNet-300-100 is pruned to 95 % on MNIST in 10 epochs and then trained on Fashion-MNIST for 10 more: with frozen masks,
and with each strategy that can change masks, all starting from the masks of MNIST. As controls, the network trained
densely on MNIST continues on Fashion-MNIST, once densely and once pruned to 95 % while it trains. There are 3 seeds.
Nothing is tuned, so the test set is evaluated after every epoch.

Prints a Markdown table: accuracy on the Fashion-MNIST test set after epochs 1, 3 and 10, the share of kept connections
that were pruned at the start, and the number of the 784 pixels that the network still uses.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import runs
import timing
from runs import Record, Run

if TYPE_CHECKING:
    import lightning.pytorch as L
    from torch import Tensor, nn

    from lightning_dynprune import DynamicPruning
    from lightning_dynprune.app.interrupt import StopRequest

SPARSITY = 0.95
SEEDS = (0, 1, 2)
EPOCHS = 10
SHOWN = (1, 3, 10)
PIXELS = 784
PRUNED, DENSE = "pruned", "dense"


@dataclass(frozen=True)
class Way:
    """A method for training on the new data.

    Args:
        start: the network trained on MNIST to start from, ``pruned`` or ``dense``.
        pruning: settings of DynamicPruning on Fashion-MNIST; None trains without it.
    """

    start: str
    pruning: Mapping[str, Any] | None


# At 95 % from before the first step. The pruned entries are the smallest, so the first global cut reproduces the masks
# of MNIST.
HELD = {"name": "constant", "begin": 0}
ONCE = {"name": "one_shot", "begin": 0}
GLOBAL = {"name": "topk", "scope": "global"}
WAYS = {
    "frozen masks": Way(PRUNED, {"strategy": "magnitude", "threshold": GLOBAL, "schedule": ONCE}),
    "set": Way(PRUNED, {"strategy": {"name": "set", "start": "magnitude"}, "threshold": GLOBAL, "schedule": HELD}),
    "rigl": Way(PRUNED, {"strategy": {"name": "rigl", "start": "magnitude"}, "threshold": GLOBAL, "schedule": HELD}),
    "surgery": Way(PRUNED, {"strategy": "surgery", "threshold": "hysteresis", "schedule": HELD}),
    "straight_through": Way(PRUNED, {"strategy": "straight_through", "threshold": GLOBAL, "schedule": HELD}),
    "dense, pruned on the new data": Way(DENSE, {"strategy": "magnitude", "schedule": "cubic"}),
    "dense": Way(DENSE, None),
}
FROZEN = "frozen masks"


def train_on(settings: Mapping[str, Any], folder: Path, stop: StopRequest) -> Record:
    """Train a network from MNIST on Fashion-MNIST, and return its test accuracy after every epoch."""
    from lightning_dynprune import DynamicPruning
    from lightning_dynprune.app.data import FashionMNIST

    network = known_network(settings, folder.parent)
    before = [weight.detach() != 0 for weight in matrices(network)]
    asked = settings["pruning"]
    pruning = None if asked is None else DynamicPruning(settings["sparsity"], seed=settings["seed"], **asked)
    curve, seconds = fit(network, FashionMNIST, settings, pruning)
    after = [weight.detach() != 0 for weight in matrices(network)]
    kept = sum(int(mask.sum()) for mask in after)
    connections = sum(mask.numel() for mask in after)
    others = sum(int((now & ~then).sum()) for now, then in zip(after, before, strict=True))
    return {
        "test_error": 1 - curve[-1],
        "accuracy_by_epoch": [round(accuracy, 4) for accuracy in curve],
        "sparsity": 1 - kept / connections,
        "nonzero": sum(int(p.detach().count_nonzero()) for p in network.parameters()),
        "exchanged": others / kept,
        "pixels_before": seen_pixels(before[0]),
        "pixels": seen_pixels(after[0]),
        "seed": settings["seed"],
        "epochs": settings["epochs"],
        "seconds": seconds,
    }


def known_network(settings: Mapping[str, Any], work: Path) -> nn.Module:
    """Return the network trained on MNIST; it is trained once for all methods that start with it.

    Args:
        settings: the settings of the run.
        work: folder that caches the weights under a key of all settings that they depend on.
    """
    from safetensors.torch import load_file, save_file

    from lightning_dynprune import DynamicPruning
    from lightning_dynprune.app.data import MNIST
    from lightning_dynprune.base import write_atomically

    start, seed = settings["start"], settings["seed"]
    network = new_network(seed)
    share = settings["sparsity"] if start == PRUNED else 0
    path = work / f"mnist-{share:g}-{settings['epochs']}-epochs-{settings['holdout']}-held-seed-{seed}.safetensors"
    if not path.exists():
        pruning = DynamicPruning(share, "magnitude", seed=seed) if start == PRUNED else None
        curve, _ = fit(network, MNIST, settings, pruning)
        print(f"MNIST, {start}: {curve[-1]:.2%}")
        state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        write_atomically(path, lambda scratch: save_file(state, scratch))
    network.load_state_dict(load_file(path))
    return network


def new_network(seed: int) -> nn.Module:
    """Return LeNet-300-100 with the seed's initial weights."""
    import lightning.pytorch as L

    from lightning_dynprune.app.models import LeNet300100

    L.seed_everything(seed, verbose=False)
    return LeNet300100((1, 28, 28), 10)


def fit(
    network: nn.Module, images: type, settings: Mapping[str, Any], pruning: DynamicPruning | None
) -> tuple[list[float], float]:
    """Train a network with Adam at 1e-3, a cosine schedule and batches of 128.

    Returns:
        The accuracy on the test images after every epoch, and the seconds of training.
    """
    from functools import partial

    import lightning.pytorch as L
    import torch

    from lightning_dynprune.app.callbacks import History
    from lightning_dynprune.app.models import Classifier

    torch.set_num_threads(1)
    data = images((1, 28, 28), 10, 128, settings["holdout"], settings["seed"])
    data.setup()
    history = History()
    callbacks: list[L.Callback] = [history] if pruning is None else [pruning, history]
    trainer = L.Trainer(
        max_epochs=settings["epochs"],
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = Classifier(network, 10, partial(torch.optim.Adam, lr=1e-3, fused=True), lr_schedule="cosine")
    trainer.fit(module, data.train_dataloader(), data.test_dataloader())
    return [accuracy for _, accuracy in history.accuracy_points], history.seconds


def matrices(network: nn.Module) -> list[Tensor]:
    """Return the pruned weights, in the order of their layers."""
    return [parameter for parameter in network.parameters() if parameter.dim() > 1]


def seen_pixels(mask: Tensor) -> int:
    """Return the number of inputs of the first layer with a kept connection."""
    return int(mask.any(dim=0).sum())


def runs_of(short: bool) -> list[Run]:
    """Return the runs of all methods, ordered by seed."""
    made = []
    # Ordered by seed, so that two workers seldom train the same network on MNIST.
    for label, way in WAYS.items():
        for seed in SEEDS[:1] if short else SEEDS:
            settings = {
                "start": way.start,
                "pruning": None if way.pruning is None else dict(way.pruning),
                "sparsity": SPARSITY,
                "seed": seed,
                "epochs": 1 if short else EPOCHS,
                "holdout": 50_000 if short else 5_000,
            }
            made.append(Run(name(label, seed), settings, train_on))
    return made


def name(label: str, seed: int) -> str:
    """Return the name of a run."""
    return f"{label}, seed {seed}"


def table(records: Mapping[str, Record]) -> str:
    """Return the Markdown table."""
    heads = ["", "start", *[f"epoch {epoch}" for epoch in SHOWN], "sparsity", "exchanged", "pixels seen"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for label, way in WAYS.items():
        found = [records[name(label, seed)] for seed in SEEDS if name(label, seed) in records]
        row = [label, way.start]
        for epoch in SHOWN:
            curves = [record["accuracy_by_epoch"] for record in found]
            row.append(cell([100 * curve[epoch - 1] for curve in curves if len(curve) >= epoch]))
        row.append(_mean(found, "sparsity", "{:.2%}"))
        row.append(_mean(found, "exchanged", "{:.1%}") if way.start == PRUNED else "-")
        row.append(_mean(found, "pixels", "{:.0f}"))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def cell(values: Sequence[float]) -> str:
    """Return the mean and half the range, or a dash if no run is finished.

    Example:
        >>> cell([88.0, 89.0]), cell([])
        ('88.50 ± 0.50', '-')
    """
    if not values:
        return "-"
    return f"{statistics.fmean(values):.2f} ± {(max(values) - min(values)) / 2:.2f}"


def _mean(found: Sequence[Record], figure: str, shown: str) -> str:
    return shown.format(statistics.fmean(record[figure] for record in found)) if found else "-"


def verdict(records: Mapping[str, Record]) -> str:
    """Return, for each method with changing masks, its gain over frozen masks per seed."""
    lines = []
    for label, way in WAYS.items():
        if label == FROZEN or way.start != PRUNED:
            continue
        pairs = [(records.get(name(label, seed)), records.get(name(FROZEN, seed))) for seed in SEEDS]
        gains = [100 * (theirs["test_error"] - ours["test_error"]) for ours, theirs in pairs if ours and theirs]
        if gains:
            each = ", ".join(f"{gain:+.2f}" for gain in gains)
            lines.append(f"{label} against {FROZEN}, at the end: {statistics.fmean(gains):+.2f} points ({each})")
    return "\n".join(lines)


def show(records: Mapping[str, Record], path: Path) -> None:
    """Print the table and the gains of changing masks."""
    print(f"\n{table(records)}\n")
    print(verdict(records))


if __name__ == "__main__":
    runs.command_line(__doc__, runs_of, timing.RESULTS / "new_data.json", show)
