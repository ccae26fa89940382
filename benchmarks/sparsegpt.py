"""How close does the refit of one layer come to its dense outputs, beside the published SparseGPT loop?

    OMP_NUM_THREADS=1 python benchmarks/sparsegpt.py   # less than a minute

The layer is synthetic: a weight of 512 x 512 normal values, and 2,048 inputs of normal values that are mixed by a
random matrix and scaled by column, so that they are correlated and of unequal size, as those of language models are.
It is pruned to 50 % and to 2 of every 4 connections. It says nothing of the loss of a network.

Prints and writes as JSON the squared error of the outputs on 2,048 other inputs, as a share of the squared dense
outputs, and the CPU seconds on one thread, each the median over the seeds. Contenders take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timing
import torch
from rich.table import Table
from torch import Tensor, nn

from lightning_dynprune.calibration import Hessians
from lightning_dynprune.targets import Target

Sparsity = float | tuple[int, int]  # a share, or (n, m): n of every m are kept
CUTS: dict[str, Sparsity] = {"50 %": 0.5, "2:4": (2, 4)}
DAMPING = 0.01


@torch.no_grad()
def sparsegpt(
    weight: Tensor, hessian: Tensor, sparsity: Sparsity, damping: float = DAMPING, block: int = 128
) -> Tensor:
    """Return the weight pruned and corrected by SparseGPT, which chooses its own mask.

    Args:
        weight: ``(rows, columns)``.
        hessian: ``X^T X`` of the inputs, ``(columns, columns)``.
        sparsity: the share of the connections to prune in every block of columns; or (n, m), n of every m kept.
        damping: added to the Hessian's diagonal, as a share of its mean.
        block: columns whose mask is chosen at once; later columns are corrected once a block.

    Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot" (2023),
    algorithm 1.
    """
    new, columns = weight.float().clone(), weight.shape[1]
    if isinstance(sparsity, tuple) and (block % sparsity[1] or columns % sparsity[1]):
        raise ValueError(f"block={block} and {columns} columns do not divide into groups of {sparsity[1]}")
    factor = _inverse_factor(new, hessian.float().clone(), damping)
    pruned = torch.zeros_like(new, dtype=torch.bool)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = torch.zeros_like(new[:, start:stop])
        for column in range(start, stop):
            chosen_until = _end_of_choice(column, start, stop, sparsity)
            if chosen_until > column:
                scores = (new[:, column:chosen_until] / factor.diagonal()[column:chosen_until]).square()
                pruned[:, column:chosen_until] = _lowest(scores, sparsity)
            gone = pruned[:, column]
            error = torch.where(gone, new[:, column], 0) / factor[column, column]
            new[:, column:stop] -= error.unsqueeze(1) * factor[column, column:stop]
            errors[:, column - start] = error
        new[:, stop:] -= errors @ factor[start:stop, stop:]
    return new.masked_fill_(pruned, 0).to(weight.dtype)


def _end_of_choice(column: int, start: int, stop: int, sparsity: Sparsity) -> int:
    """Return the end of the columns whose mask is chosen at ``column``; 0 where none is."""
    if isinstance(sparsity, tuple):
        return 0 if column % sparsity[1] else column + sparsity[1]
    return stop if column == start else 0


def _lowest(scores: Tensor, sparsity: Sparsity) -> Tensor:
    """Return a mask that is True for the lowest scores: those of each row for (n, m), else of all rows together."""
    rows = scores if isinstance(sparsity, tuple) else scores.reshape(1, -1)
    count = sparsity[1] - sparsity[0] if isinstance(sparsity, tuple) else round(sparsity * scores.numel())
    lowest = rows.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, lowest, True).view_as(scores)


def _inverse_factor(new: Tensor, hessian: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of the damped inverse; weights of inputs that were always zero become zero."""
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    diagonal.masked_fill_(dead, 1)
    new[:, dead] = 0
    diagonal += damping * diagonal.mean()
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)


def wanda_mask(weight: Tensor, hessian: Tensor, sparsity: Sparsity) -> Tensor:
    """Return the mask, True = kept, of the largest ``|w| * norm of the input`` of each row.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (2023).
    """
    scores = weight.abs() * hessian.diagonal().sqrt()
    if isinstance(sparsity, tuple):
        return ~_lowest(scores.reshape(-1, sparsity[1]), sparsity).view_as(weight)
    return ~torch.stack([_lowest(row, sparsity) for row in scores])


def refitted(weight: Tensor, hessian: Tensor, mask: Tensor) -> Tensor:
    """Return the weight with what the mask keeps refitted by ``reconstruct``."""
    hessians = Hessians([Target("weight", nn.Parameter(weight))])
    hessians.tensors[0] = hessian.unsqueeze(0)
    return hessians.refit(0, weight, mask, damping=DAMPING)


CONTENDERS: dict[str, Callable[[Tensor, Tensor, Sparsity], Tensor]] = {
    "wanda": lambda weight, hessian, cut: weight * wanda_mask(weight, hessian, cut),
    "SparseGPT": sparsegpt,
    "wanda + reconstruct": lambda weight, hessian, cut: refitted(weight, hessian, wanda_mask(weight, hessian, cut)),
    "SparseGPT's mask + reconstruct": lambda weight, hessian, cut: refitted(
        weight, hessian, sparsegpt(weight, hessian, cut) != 0
    ),
}


def layer(seed: int, columns: int = 512, samples: int = 2048) -> tuple[Tensor, Tensor, Tensor]:
    """Return a weight, the inputs to calibrate on and those to measure on."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(columns, columns, generator=random)
    mixing = torch.randn(columns, columns, generator=random) / columns**0.5
    scale = torch.randn(columns, generator=random).exp()
    inputs = torch.randn(2 * samples, columns, generator=random) @ mixing * scale
    return weight, inputs[:samples], inputs[samples:]


def compare(seeds: int) -> list[dict]:
    """Prune one layer a seed by every contender; return the errors and the CPU seconds of each seed."""
    rows = {
        (cut, name): {"cut": cut, "contender": name, "error": [], "seconds": []} for cut in CUTS for name in CONTENDERS
    }
    for seed in range(seeds):
        weight, inputs, held_out = layer(seed)
        hessian, dense = inputs.T @ inputs, held_out @ weight.T
        for (cut, name), row in rows.items():
            started = time.process_time()
            new = CONTENDERS[name](weight, hessian, CUTS[cut])
            row["seconds"].append(time.process_time() - started)
            row["error"].append(float((held_out @ new.T - dense).square().sum() / dense.square().sum()))
    return list(rows.values())


def main() -> None:
    """Run the benchmark from the command line: prune, print the table, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=timing.RESULTS / "sparsegpt.json", help=timing.OUT_HELP)
    options.add_argument("--seeds", type=int, default=5, help="layers to prune (default: 5)")
    chosen = options.parse_args()
    timing.use_one_thread()
    rows = compare(chosen.seeds)
    shown = Table(title=f"A synthetic layer of 512 x 512: median of {chosen.seeds} seeds")
    for column in ("cut", "contender", "squared error of the outputs", "CPU s"):
        shown.add_column(column)
    for row in rows:
        error, seconds = statistics.median(row["error"]), statistics.median(row["seconds"])
        shown.add_row(row["cut"], row["contender"], f"{100 * error:.2f} %", f"{seconds:.2f}")
    console = timing.console()
    console.print(shown)
    timing.write(chosen.out, question=__doc__.splitlines()[0], seeds=chosen.seeds, rows=rows)
    console.print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
