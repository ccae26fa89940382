"""The package's rooms import downward only, and the engine imports torch alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_dynprune"
ABOVE = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "torchmetrics"}


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return names | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}


def test_a_plain_loop_runs_where_lightning_hydra_and_torchmetrics_are_not():
    script = f"""
import sys
for name in {sorted(ABOVE)!r}:
    sys.modules[name] = None  # any import of it raises
import torch
from lightning_dynprune import Pruner
net = torch.nn.Linear(10, 10)
Pruner(net, sparsity=0.9, strategy="magnitude", schedule={{"name": "one_shot", "begin": 1}}).tick()
print(int((net.weight == 0).sum()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "90", done.stderr


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_what_its_room_may(path):
    room = path.relative_to(PACKAGE).parts[0]
    roots = {name.split(".")[0] for name in imported(path)}
    inside = {name.split(".")[1] for name in imported(path) if name.startswith("lightning_dynprune.")}
    if room not in ("app", "callback.py"):
        assert not roots & {"lightning", "pytorch_lightning"}
    if room != "app":
        assert not roots & {"hydra", "omegaconf"}
        assert "app" not in inside or room == "__main__.py"
    if room not in ("app", "callback.py", "__init__.py"):
        assert "callback" not in inside
    if room in (
        "strategies",
        "thresholds",
        "schedules",
        "patterns",
        "masks.py",
        "selection.py",
        "scores.py",
        "targets.py",
    ):
        assert "pruner" not in inside
    if room in ("masks.py", "selection.py", "scores.py", "flags.py", "targets.py"):
        assert not inside & {"strategies", "thresholds", "schedules", "patterns"}


def test_the_package_names_what_it_does_not_have():
    import lightning_dynprune

    with pytest.raises(AttributeError, match="has no attribute 'DynamicPrunning'"):
        lightning_dynprune.DynamicPrunning  # noqa: B018
