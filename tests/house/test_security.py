"""Nothing is unpickled, nothing is run that a file names, and what is printed is only text."""

from __future__ import annotations

import ast
import csv
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import lightning_dynprune
from lightning_dynprune.app.runs import ResumeError, dense_file, expand_checkpoint, expand_resume, load_weights
from lightning_dynprune.deploy.compact import load_compact
from lightning_dynprune.deploy.kernels.layer_choice import apply_choice
from lightning_dynprune.deploy.slimming import load
from lightning_dynprune.report import SweepRow, draw_pareto, preflight_table, run_table, sweep_table, write_summary

SOURCES = sorted(Path(lightning_dynprune.__file__).parent.rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "tarfile", "telnetlib"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pandas.read_pickle", "yaml.load"}
METHODS = {"extractall", "extract", "unpack_archive"}
# Where the class of an error is all that is taken of a module.
NAMED_ONLY = {"checkpoint_file.py": {"pickle.UnpicklingError"}}


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def dangers(tree: ast.AST, name: str) -> Iterator[str]:
    allowed = NAMED_ONLY.get(name, set())
    modules = {use.partition(".")[0] for use in allowed}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] in MODULES - modules)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield f"from {node.module}"
        elif (
            isinstance(node, ast.Attribute) and ast.unparse(node.value) in modules and ast.unparse(node) not in allowed
        ):
            yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            function, given = called(node), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if (
                function in CALLS
                or function.rpartition(".")[2] in METHODS
                or given.get("allow_pickle", "False") != "False"
            ):
                yield ast.unparse(node)
            if function in ("torch.load", "torch.package.PackageImporter") and given.get("weights_only") != "True":
                yield ast.unparse(node)
            if function.startswith("subprocess.") and given.get("shell", "False") != "False":
                yield ast.unparse(node)


def test_no_file_of_the_package_unpickles_or_runs_text():
    found = {path.name: list(dangers(ast.parse(path.read_text(encoding="utf-8")), path.name)) for path in SOURCES}
    assert len(SOURCES) > 100
    assert not {name: what for name, what in found.items() if what}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from joblib import load", "eval('1')", "torch.load(x)", "torch.load(x, weights_only=False)",
        "numpy.load(x, allow_pickle=True)", "subprocess.run(x, shell=True)", "archive.extractall()", "os.system(x)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(text):
    assert list(dangers(ast.parse(text), "x.py"))


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def network() -> nn.Module:
    return nn.Linear(2, 1)


ENTRIES = {
    "resume": lambda path: expand_resume([f"resume={path}"]),
    "deploy": lambda path: expand_checkpoint(["task=deploy", f"checkpoint={path}"]),
    "weights of a checkpoint": lambda path: load_weights(network(), path),
    "weights of another file": lambda path: load_weights(network(), path.rename(path.with_suffix(".safetensors"))),
    "load": lambda path: load(network(), path),
    "load_compact": load_compact,
    "apply_choice": lambda path: apply_choice(network(), path),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_file_that_runs_code_when_it_is_unpickled_runs_none(entry, legacy, tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "last.ckpt"
    content = {"callbacks": {"LastCheckpoint": Bomb(mark)}, "state_dict": {"network.weight": Bomb(mark)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"last\.(ckpt|safetensors)"):
        ENTRIES[entry](path)
    assert not mark.exists()


@pytest.mark.parametrize("entry", ["resume", "deploy", "weights of a checkpoint"])
@pytest.mark.parametrize("value", ["bytearray", "meta"])
def test_a_checkpoint_of_some_bytes_cannot_ask_for_any_amount_of_memory(entry, value, tmp_path):
    path = tmp_path / "last.ckpt"
    held = bytearray(9) if value == "bytearray" else torch.zeros(9, device="meta")
    torch.save({"callbacks": {"LastCheckpoint": {}}, "more": held}, path)
    with pytest.raises(ValueError, match="which is neither a tensor nor a plain value"):
        ENTRIES[entry](path)


def test_a_checkpoint_whose_entries_unfold_is_refused(tmp_path):
    import zipfile

    path = tmp_path / "last.ckpt"
    torch.save({"more": torch.zeros(9)}, tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "whole") as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(ResumeError, match="is compressed, or larger than the file"):
        expand_resume([f"resume={path}"])


def test_a_dense_control_is_looked_for_in_the_sweep_alone(tmp_path):
    run, outside = tmp_path / "sweep" / "0", tmp_path / "outside.safetensors"
    run.mkdir(parents=True)
    outside.touch()
    (tmp_path / "sweep" / "dense").mkdir()
    for key in ("../../outside", str(outside.with_suffix("")), "../dense/../../outside"):
        (run / "dense.json").write_text(f'{{"key": "{key}"}}')
        assert dense_file(run) is None


HOSTILE = "[red]x[/red] [/] [link=file:///etc]y[/link] $\\frac{$ \x1b]0;title\x07\x1b[31m \u202e end"
SEEN = ("[red]x[/red]", "[/]", "[link=file:///etc]y[/link]", "$\\frac{$", "\\x1b]0;title", "\\x1b[31m", "\\u202e end")
RESULTS: dict[str, Any] = {
    "accuracy": 0.9, "val_accuracy": 0.9, "dense_accuracy": 0.9, "dense_val_accuracy": None, "sparsity": 0.5,
    "target_sparsity": 0.5, "nonzero": 1, "parameters": 2, "compression": 2.0, "seed": 0, "overrides": [HOSTILE],
    "layers": {HOSTILE: 0.5}, "connections": {HOSTILE: 2}, "bytes": {"dense": 1, "compact": 1},
    "seconds": {"data": 0.0, "pruned": 0.0, "test": 0.0},
    "journal": {"updates": 1, "dropped": 1, "grown": 0, "returned_share": 0.0, "notes": [HOSTILE]},
}  # fmt: skip
CELL = {"pattern": HOSTILE, "batch": 1, "sparsity": 0.5, "ratio": None, "stays_dense": True}
OUTLOOK = {
    "cells": [CELL],
    "verdicts": {HOSTILE: HOSTILE},
    "seconds": 1.0,
    "threads": 1,
    "device": HOSTILE,
    "clock": "cpu",
}
TABLES = {
    "run": lambda: run_table(RESULTS, Path(HOSTILE)),
    "sweep": lambda: sweep_table(
        [SweepRow(HOSTILE, [HOSTILE, "a"], RESULTS), SweepRow("1", ["b"], None, HOSTILE)], Path("/x")
    ),
    "preflight": lambda: preflight_table(OUTLOOK, Path(HOSTILE)),
}


@pytest.mark.parametrize("table", TABLES)
def test_names_are_printed_as_they_are_and_reach_no_terminal_as_commands(table):
    console = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None, legacy_windows=False)
    console.print(TABLES[table]())
    printed = console.file.getvalue()
    assert all(piece in printed for piece in SEEN)
    assert not [piece for piece in ("\x1b]", "\x07", "\u202e", "\x1b[31m") if piece in printed]


def test_a_figure_shows_a_name_that_would_be_no_formula(tmp_path):
    rows = [SweepRow("0", ["_x=$\\frac{$", HOSTILE], RESULTS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that the font lacks
        draw_pareto(rows, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size > 0


def test_no_cell_of_the_summary_is_taken_for_a_formula(tmp_path):
    rows = [SweepRow("0", ["+a==1+1"], None, "=cmd|' /C calc'!A0"), SweepRow("1", ["-b=@SUM(1)"], None, "@x")]
    write_summary(rows, tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [(row["a"], row["'-b"]) for row in read] == [("'=1+1", ""), ("", "'@SUM(1)")]
    assert [row["error"] for row in read] == ["'=cmd|' /C calc'!A0", "'@x"]
