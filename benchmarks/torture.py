"""Does a training that is repeatedly killed and resumed end exactly like one that is never stopped?

    OMP_NUM_THREADS=1 python benchmarks/torture.py  # 50 kills: about five minutes on one core

One training of the program ``dynprune`` (scikit-learn's digits, a dense baseline, then pruning with latent weights) is
killed 50 times by SIGKILL and resumed by ``resume=`` each time. The moments are drawn at random with a seed: a third
during an update of the masks, a third while a checkpoint is written, a third anywhere else. The benchmark wraps
functions in the training process, which then reports through a pipe what it enters and leaves. The benchmark waits
for the drawn moment, then for a random share of the median time that the uninterrupted run spent there, and kills.
The place of a kill is the last one reported through the pipe.

After each kill every file with its final name must be complete. At the end weights, masks, latent values, optimizer,
journal, figures and random state must equal those of the uninterrupted run bit for bit.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timing
import torch
from rich.table import Table
from safetensors.torch import load_file

from lightning_dynprune.app import run as dynprune
from lightning_dynprune.app.callbacks import History, LastCheckpoint
from lightning_dynprune.base import validate_checkpoint_file
from lightning_dynprune.engine import Pruner

UPDATE, CHECKPOINT, BETWEEN = PLACES = ("in an update", "in a checkpoint write", "between the two")
SETTINGS = (
    "strategy=surgery", "schedule.begin=0.05", "schedule.end=0.95", "schedule.every=2", "model.dropout=0.2",
    "data.batch_size=32", "checkpoint.every_n_steps=6", "logger=none", "progress=false", "hydra.run.dir=run",
)  # fmt: skip


@dataclass
class Progress:
    """Progress that a training process reports: its step, its place in the code, and the seconds in each place."""

    step: int = 0
    steps: int = 0
    place: str = BETWEEN
    seconds: dict[str, list[float]] = field(default_factory=lambda: {place: [] for place in PLACES})
    _since: float = 0.0

    def read(self, line: str) -> None:
        """Read one line: ``step|N|M``, or the place that is entered."""
        what, *numbers = line.split("|")
        now = time.perf_counter()
        if numbers:
            self.step, self.steps = map(int, numbers)
        elif what != self.place:
            self.seconds[self.place].append(now - self._since)
            self.place, self._since = what, now


@dataclass(frozen=True)
class Moment:
    """A moment to kill: after a number of steps, at the next entry into a place, after a share of its usual time."""

    step: int
    place: str
    share: float


def moments(kills: int, steps: int, seed: int) -> list[Moment]:
    """Return the moments in order; ``steps`` counts those of the dense baseline and of the pruned training."""
    chance = random.Random(seed)
    drawn = []
    for number in range(kills):
        place = PLACES[number % len(PLACES)]
        # Masks are updated only in the second half, and not in its last steps.
        low, high = (0.53, 0.96) if place == UPDATE else (0.01, 0.98)
        drawn.append(Moment(int(chance.uniform(low, high) * steps), place, chance.random()))
    return sorted(drawn, key=lambda moment: moment.step)


def report_through(pipe: int) -> None:
    """Wrap the observed functions of this process, so that each writes a line when it is entered and left."""

    def wrap(owner: type, name: str, place: str) -> None:
        original = getattr(owner, name)

        def watched(self: Any, *args: Any, **settings: Any) -> Any:
            os.write(pipe, f"{place}\n".encode())
            try:
                return original(self, *args, **settings)
            finally:
                os.write(pipe, f"{BETWEEN}\n".encode())

        setattr(owner, name, watched)

    wrap(Pruner, "_update", UPDATE)  # every update, those that `tick` makes too
    wrap(LastCheckpoint, "save", CHECKPOINT)
    noted = History.on_train_batch_end

    def on_train_batch_end(self: History, trainer: Any, *rest: Any) -> None:
        noted(self, trainer, *rest)
        steps = int(trainer.num_training_batches) * trainer.max_epochs
        before = 0 if self.sparsity is None else steps
        os.write(pipe, f"step|{before + trainer.global_step}|{2 * steps}\n".encode())

    History.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]


def trained(
    arguments: tuple[str, ...], folder: Path, moment: Moment | None, usual: dict[str, float] | None
) -> tuple[int, Progress]:
    """Run the program in its own process, and kill it at a moment.

    Returns:
        The exit status, or minus the signal that ended the process; and the reported progress.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.chdir(folder)
        output = os.open(folder.parent / f"{folder.name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        report_through(writer)
        sys.argv = ["dynprune", *arguments]
        try:
            dynprune()
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 1)
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(writer)
    progress, waiting = Progress(), moment
    with open(reader, encoding="utf-8") as lines:
        for line in lines:
            text = line.rstrip("\n")
            progress.read(text)
            enters = text == progress.place if waiting and waiting.place != BETWEEN else text.startswith("step")
            if waiting and usual and progress.step >= waiting.step and progress.place == waiting.place and enters:
                until = time.perf_counter() + waiting.share * usual[waiting.place]
                while time.perf_counter() < until:
                    pass
                os.kill(child, signal.SIGKILL)
                waiting = None
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), progress


def half_written(folder: Path) -> int:
    """Return the number of partly written scratch files; raise if a file with its final name is incomplete."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".ckpt": lambda path: (validate_checkpoint_file(path, "file"), torch.load(path, weights_only=True)),
        ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
        ".safetensors": load_file,
        ".png": lambda path: path.read_bytes().index(b"IEND"),
    }
    left = len(list(Path(tempfile.gettempdir()).glob("tmp*")))  # Lightning's, on their way to a folder
    for path in folder.iterdir():
        if path.suffix in readers:
            if path.name.startswith("."):
                left += 1
            else:
                readers[path.suffix](path)
    return left


def outcome(folder: Path) -> dict[str, Any]:
    """Return the results of a run, without times and paths."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    of_program, history = (checkpoint["callbacks"].pop(name) for name in ("LastCheckpoint", "History"))
    return {
        "weights": (folder / "model.safetensors").read_bytes(),
        "compact weights": (folder / "compact.safetensors").read_bytes(),
        "dense weights": (folder / "dense.safetensors").read_bytes(),
        "figures": {key: results[key] for key in results.keys() - {"seconds", "overrides", "config"}},
        "curves": {key: history[key] for key in history.keys() - {"seconds"}},
        "masks": checkpoint["callbacks"]["DynamicPruning"]["masks"],
        "latent values": checkpoint["callbacks"]["DynamicPruning"]["state"],
        "journal": checkpoint["callbacks"]["DynamicPruning"]["journal"],
        "pruning state": checkpoint["callbacks"]["DynamicPruning"],
        "optimizer": checkpoint["optimizer_states"],
        "learning rate": checkpoint["lr_schedulers"],
        "loops": checkpoint["loops"],
        "random state": of_program["random"],
    }


def equal(a: Any, b: Any) -> bool:
    """Return whether two nested values are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def tortured(kills: int, epochs: int, seed: int, work: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train once without and once with kills; return the places of the kills and which results are equal."""
    settings = (*SETTINGS, f"trainer.max_epochs={epochs}")
    for name in ("whole", "killed"):
        (work / name).mkdir()
    began = time.perf_counter()
    code, progress = trained(settings, work / "whole", None, None)
    if code:
        raise RuntimeError(f"the uninterrupted run failed, see {work / 'whole.txt'}")
    usual = {place: statistics.median(progress.seconds[place]) for place in PLACES}
    say(f"uninterrupted: {progress.steps} steps in {time.perf_counter() - began:.0f} s; {usual}")
    before = half_written(work / "whole" / "run")
    fell: Counter[str] = Counter()
    left: Counter[str] = Counter()
    arguments = settings
    run = work / "killed" / "run"
    for number, moment in enumerate(moments(kills, progress.steps, seed), 1):
        code, at = trained(arguments, work / "killed", moment, usual)
        if code != -signal.SIGKILL:
            raise RuntimeError(f"attempt {number} ended by {code} before its moment, see {work / 'killed.txt'}")
        fell[at.place] += 1
        now = half_written(run)
        left[at.place] += max(now - before, 0)
        before = now
        say(f"{number}/{kills}: killed {at.place}, step {at.step} of {progress.steps}")
        # A run that was killed before its first checkpoint cannot be resumed; the program raises an error.
        begun = any((run / name).exists() for name in ("dense.ckpt", "last.ckpt"))
        arguments = ("resume=run", "progress=false") if begun else settings
    code, _ = trained(arguments, work / "killed", None, None)
    if code:
        raise RuntimeError(f"the last resume failed, see {work / 'killed.txt'}")
    whole, resumed = outcome(work / "whole" / "run"), outcome(run)
    return {
        "kills": kills,
        "seed": seed,
        "steps": progress.steps,
        "places": {place: {"kills": fell[place], "half_written": left[place]} for place in PLACES},
        "usual_seconds": usual,
        "equal": {part: equal(whole[part], resumed[part]) for part in whole},
        "half_written_in_the_folder_at_the_end": len(list(run.glob(".*.*"))),
        "seconds": time.perf_counter() - began,
    }


def tables(found: dict[str, Any]) -> list[Table]:
    """Return the figures as tables."""
    where = Table("killed", title=f"{found['kills']} SIGKILLs of one training of {found['steps']} steps, each resumed")
    where.add_column("kills", justify="right")
    where.add_column("usual time there", justify="right")
    where.add_column("of them with a file half-written", justify="right")
    for place, row in found["places"].items():
        usual = f"{found['usual_seconds'][place] * 1e3:.1f} ms"
        where.add_row(place, str(row["kills"]), usual, str(row["half_written"]))
    same = Table("the end", "equal to the uninterrupted run", title="Bit for bit")
    for part, is_equal in found["equal"].items():
        same.add_row(part, "yes" if is_equal else "NO")
    return [where, same]


def main() -> None:
    """Run the benchmark from the command line: train, kill, print the tables, write the JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=50, help="number of kills (default: 50)")
    options.add_argument("--epochs", type=int, default=8, help="epochs of each training (default: 8)")
    options.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    options.add_argument("--out", type=Path, default=timing.RESULTS / "torture.json", help=timing.OUT_HELP)
    chosen = options.parse_args()
    timing.use_one_thread()
    gc.collect()
    gc.freeze()  # a collection in a forked process would touch, and so copy, what the imports have made
    work = Path(tempfile.mkdtemp(prefix="dynprune-torture-"))
    # Lightning writes checkpoints through the folder for temporary files; files that kills leave there are removed too.
    (work / "temporary").mkdir()
    tempfile.tempdir = str(work / "temporary")
    found = tortured(chosen.kills, chosen.epochs, chosen.seed, work, lambda text: print(text, flush=True))
    console = timing.console()
    for table in tables(found):
        console.print(table)
    timing.write(chosen.out, question=__doc__.splitlines()[0], **found)
    console.print(f"{found['seconds']:.0f} s; written to {chosen.out}")
    if found["half_written_in_the_folder_at_the_end"] or not all(found["equal"].values()):
        raise SystemExit(f"the killed run differs from the uninterrupted one; both are in {work}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
