"""Do the tests notice mistakes that a person would make?

    OMP_NUM_THREADS=1 python benchmarks/hand_mutants.py          # all, in about ten minutes
    OMP_NUM_THREADS=1 python benchmarks/hand_mutants.py guard    # those whose name holds a word

Each mutant replaces one piece of text in a copy of the package, and runs the tests beside it. It is killed where they
fail. ``EQUIVALENT`` lists the mutants that cannot be noticed, with the reason. The command fails if another survives,
or if a piece of text is no longer found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
COPIED = ("lightning_dynprune", "tests", "conf", "docs", "benchmarks", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Args:
        name: of the mistake.
        file: of the package.
        old: the text that is replaced; it occurs once.
        new: what replaces it.
        tests: files or folders that should fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


ENGINE, FAULTS = "tests/engine", "tests/faults/test_interrupted_update.py"
UPDATE, GUARD, PROGRESS = "engine/updates/mask_update.py", "engine/guard.py", "engine/progress.py"
MUTANTS = [
    Mutant(
        "scratch bits stay after scores that failed",
        UPDATE,
        "    except BaseException:\n        masks.clear_scratch_bits()\n        raise\n    if room:",
        "    except BaseException:\n        raise\n    if room:",
        ("tests/engine/updates", FAULTS),
    ),
    Mutant(
        "living connections are read with stale scratch bits",
        "engine/updates/score_reader.py",
        "lives = without_scratch_bit(piece.mask)",
        "lives = piece.mask",
        ("tests/engine/updates",),
    ),
    Mutant(
        "a pass keeps the scratch bits of an earlier one",
        "selection/bracket_search.py",
        "scratch.bitwise_and_(1).bitwise_or_(",
        "scratch.bitwise_or_(",
        ("tests/selection",),
    ),
    Mutant(
        "scratch bits stay after an exchange that failed",
        UPDATE,
        "        masks.clear_scratch_bits()\n        masks.write_each(",
        "        masks.write_each(",
        ("tests/engine/updates", FAULTS),
    ),
    Mutant(
        "the masks before an exchange hold scratch bits",
        UPDATE,
        "before = [without_scratch_bit(mask) for mask in masks.tensors]",
        "before = [mask.clone() for mask in masks.tensors]",
        ("tests/engine/updates",),
    ),
    Mutant(
        "the mask before an update holds scratch bits",
        UPDATE,
        "before = without_scratch_bit(masks.tensors[i]) if remember else None",
        "before = masks.tensors[i].clone() if remember else None",
        ("tests/engine/updates",),
    ),
    Mutant(
        "an exchange that failed leaves the first half",
        UPDATE,
        "        masks.write_each((i, [before[i].reshape(-1)], kept_before[i]) for i in every)\n        raise",
        "        raise",
        ("tests/engine/updates", FAULTS),
    ),
    Mutant(
        "dropped counts the units that stayed",
        UPDATE,
        "dropped = [kept - count for kept, count in zip(kept_before, stayed, strict=True)]",
        "dropped = [kept - count for kept, count in zip(masks.kept, stayed, strict=True)]",
        ("tests/engine/updates", "tests/journal"),
    ),
    Mutant(
        "units of different sizes are taken for equal",
        UPDATE,
        "    if len({s.size for s in worth}) <= 1:",
        "    if len({s.size for s in worth}) <= 2:",
        ("tests/engine/updates",),
    ),
    Mutant("a pause does not count steps", PROGRESS, "self.paused_for.step += self.paused", "pass", (ENGINE,)),
    Mutant("a pause does not count epochs", PROGRESS, "self.paused_for.epoch += self.paused", "pass", (ENGINE,)),
    Mutant(
        "an update that failed stays counted",
        PROGRESS,
        "        if self.updates == updates:\n            self.clock.step",
        "        if self.updates != updates:\n            self.clock.step",
        (ENGINE, FAULTS),
    ),
    Mutant(
        "what was paused is forgotten when a step is taken back",
        PROGRESS,
        "self.paused_for, self.has_started = Clock(paused_step, paused_epoch), has_started",
        "self.has_started = has_started",
        (ENGINE, FAULTS),
    ),
    Mutant("a loaded state is not paused", PROGRESS, 'self.paused = state["paused"]', "self.paused = False", (ENGINE,)),
    Mutant(
        "a loaded state forgets what was asked for",
        PROGRESS,
        'self.requested_sparsity = state["requested_sparsity"]',
        "self.requested_sparsity = None",
        (ENGINE,),
    ),
    Mutant(
        "the sparsity falls where an earlier training ended higher",
        PROGRESS,
        "self.previous_sparsity, self.requested_sparsity or 0.0)",
        "self.requested_sparsity or 0.0)",
        (ENGINE, "tests/callback/test_resume.py"),
    ),
    Mutant(
        "the guard takes NaN for within the limit",
        GUARD,
        "            if drop <= self.max_drop\n",
        "            if not drop > self.max_drop\n",
        ("tests/engine/test_guard.py",),
    ),
    Mutant(
        "the guard is outside at the limit itself",
        GUARD,
        "            if drop <= self.max_drop\n",
        "            if drop < self.max_drop\n",
        ("tests/engine/test_guard.py",),
    ),
    Mutant(
        "the guard keeps the step of the present masks",
        GUARD,
        "while self._good and self._good[-1] >= _last_update(pruner):",
        "while self._good and self._good[-1] > _last_update(pruner):",
        ("tests/engine/test_guard.py", "tests/callback/test_validation_guard.py"),
    ),
    Mutant(
        "the guard restores after one validation too many",
        GUARD,
        "if (self._waited < self.patience and has_time) or not pruner.sparsity:",
        "if (self._waited <= self.patience and has_time) or not pruner.sparsity:",
        ("tests/engine/test_guard.py", "tests/callback/test_validation_guard.py"),
    ),
    Mutant(
        "the guard remembers NaN as the dense value",
        GUARD,
        "if self.reference is None and not math.isnan(value):",
        "if self.reference is None:",
        ("tests/engine/test_guard.py",),
    ),
    Mutant(
        "the guard judges the sanity check",
        "callback/dynamic_pruning.py",
        "guard = self.guard if self._steps.is_attached and not trainer.sanity_checking else None",
        "guard = self.guard if self._steps.is_attached else None",
        ("tests/callback/test_validation_guard.py",),
    ),
    Mutant(
        "a schedule computes its curve at the end of its span",
        "schedules/base.py",
        "        if now >= span.end:\n            return self.final",
        "        if now > span.end:\n            return self.final",
        ("tests/schedules",),
    ),
    Mutant(
        "a schedule of phases ends dense",
        "schedules/acdc.py",
        "if sparse or now >= span.end else",
        "if sparse or now > span.end else",
        ("tests/schedules",),
    ),
    Mutant(
        "a group counts where one of its weights is a target",
        "engine/coupled/coupled_masks.py",
        "return bool(made) and all(axis.name in self._positions for axis in made)",
        "return bool(made) and any(axis.name in self._positions for axis in made)",
        ("tests/engine/coupled", "tests/patterns/test_channel.py"),
    ),
    Mutant(
        "-0.0 is smaller than 0.0 in the radix selection",
        "selection/radix.py",
        "number = (piece.to(dtype) + 0.0).view(kind)",
        "number = piece.to(dtype).view(kind)",
        ("tests/selection",),
    ),
    Mutant(
        "negative floats are in the wrong order",
        "selection/radix.py",
        "return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)",
        "return bits",
        ("tests/selection",),
    ),
    Mutant(
        "channels are scored with what strategies remember of pruned connections",
        "engine/coupled/coupled_scores.py",
        "scores = at_least_float32(score(view)).masked_fill(~view.mask, 0.0)",
        "scores = at_least_float32(score(view))",
        ("tests/engine/coupled", "tests/patterns/test_channel.py"),
    ),
    Mutant(
        "the mean of a channel counts pruned connections",
        "engine/coupled/coupled_scores.py",
        "for total, values in ((sums, scores), (counts, view.mask)):",
        "for total, values in ((sums, scores), (counts, torch.ones_like(view.mask))):",
        ("tests/engine/coupled", "tests/patterns/test_channel.py"),
    ),
    Mutant(
        "gradients of pruned channels count in the norm that is clipped",
        "callback/dynamic_pruning.py",
        "            self._running().mask_gradients(trainer.is_last_batch)\n",
        "            pass\n",
        ("tests/callback/test_clipping.py", "tests/compatibility/test_gradients.py"),
    ),
    Mutant(
        "slimming that failed is not undone",
        "engine/slimming.py",
        "        if not is_certain:\n            change.undo()\n",
        "",
        ("tests/engine", "tests/callback/test_slim_during_fit.py", FAULTS),
    ),
    Mutant(
        "a checksum does not depend on the order of entries",
        "base/integrity.py",
        "            crc = _update_crc(crc, entry)\n",
        "            crc ^= _update_crc(0, entry)\n",
        ("tests/base", "tests/faults/test_checkpoints.py"),
    ),
    Mutant(
        "a checksum does not depend on shapes",
        "base/integrity.py",
        'crc = _update_crc_text(crc, f"{state.dtype} {tuple(state.shape)}")',
        'crc = _update_crc_text(crc, f"{state.dtype}")',
        ("tests/base", "tests/faults/test_checkpoints.py"),
    ),
    Mutant(
        "uneven batches are not noticed",
        "distributed/join_check.py",
        "        if not self._has_others:\n",
        "        if self._has_others:\n",
        ("tests/processes/test_rank_errors.py",),
    ),
    Mutant(
        "an error that is held in one process is not announced",
        "distributed/held_errors.py",
        "if self._own is None and not self._announce(self._notice, error, step + 2):",
        "if self._own is not None and not self._announce(self._notice, error, step + 2):",
        ("tests/processes/test_rank_errors.py",),
    ),
    Mutant(
        "an error that is held is forgotten",
        "distributed/held_errors.py",
        "self._own = self._own or error",
        "self._own = None",
        ("tests/processes/test_rank_errors.py",),
    ),
    Mutant(
        "settings of processes are not compared",
        "distributed/same_settings.py",
        "torch.tensor([_hash(json.dumps(text)) for text in texts])",
        "torch.tensor([0 for text in texts])",
        ("tests/processes/test_rank_errors.py",),
    ),
]
EQUIVALENT: dict[str, str] = {
    "scratch bits stay after an exchange that failed": "the masks before are written over every byte right after; "
    "it matters only if that is interrupted by a second error",
}


def is_killed(mutant: Mutant, copy: Path) -> bool:
    """Return whether the tests of a mutant fail in a copy of the project.

    Raises:
        ValueError: the text to replace does not occur exactly once.
    """
    path = copy / "lightning_dynprune" / mutant.file
    source = path.read_text(encoding="utf-8")
    if source.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file} holds the text of {mutant.name!r} {source.count(mutant.old)} times, not once")
    path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *mutant.tests]
    try:
        done = subprocess.run(command, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True)
    finally:
        path.write_text(source, encoding="utf-8")
    if done.returncode not in (0, 1):  # 2 and above: the tests did not run
        raise RuntimeError(f"the tests of {mutant.name!r} ended with {done.returncode}: {done.stdout.decode()[-500:]}")
    return done.returncode == 1


def main() -> None:
    """Try the mutants whose name holds the word of the command line, or all."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    table = Table("mutant", "result")
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
            else:
                shutil.copy(source, copy / name)
        for mutant in MUTANTS:
            if word not in mutant.name:
                continue
            killed = is_killed(mutant, copy)
            if not killed and mutant.name not in EQUIVALENT:
                survived.append(mutant.name)
            result = "killed" if killed else f"equivalent: {EQUIVALENT.get(mutant.name, 'NO, it survived')}"
            table.add_row(mutant.name, result)
            print(f"{mutant.name}: {result}", flush=True)
    Console().print(table)
    if survived:
        raise SystemExit(f"{len(survived)} survived: {'; '.join(survived)}")


if __name__ == "__main__":
    main()
