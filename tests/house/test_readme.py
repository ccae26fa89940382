"""The README's Python, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_blocks_to_run():
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs_as_it_stands(number, tmp_path):
    run(BLOCKS[number], tmp_path)


def test_one_line_in_a_script_reaches_the_sparsity_it_prints(tmp_path):
    (block,) = [b for b in BLOCKS if "callbacks=[pruning]" in b]
    assert "\n0.9\n" in "\n" + run(block, tmp_path)


def test_the_strategy_of_the_readme_prunes_by_name(tmp_path):
    (block,) = [b for b in BLOCKS if "STRATEGIES.register" in b]
    use = """
import torch
from lightning_dynprune import Pruner
net = torch.nn.Linear(4, 2, bias=False)
net.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0], [100.0, 200.0, 300.0, 400.0]])
Pruner(net, sparsity=0.5, strategy="row_magnitude", schedule={"name": "one_shot", "begin": 1}).tick()
print(net.weight.tolist())
"""
    (tmp_path / "mine.py").write_text(block)
    assert run("import mine\n" + use, tmp_path).strip() == "[[0.0, 0.0, 3.0, 4.0], [0.0, 0.0, 300.0, 400.0]]"


def test_every_row_of_the_matrix_names_a_test_that_there_is():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", README.read_text(encoding="utf-8"))
    assert len(named) > 60
    folders = [Path(__file__).parents[1] / folder for folder in ("compatibility", "processes")]
    for file, name in named:
        (path,) = [folder / file for folder in folders if (folder / file).exists()]
        assert f"\ndef {name}(" in path.read_text(encoding="utf-8"), f"{file} has no {name}"
