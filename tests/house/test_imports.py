"""The package's rooms import downward only, and the engine imports torch alone."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "lightning_dynprune"
ABOVE = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "torchmetrics"}


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
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "90", done.stderr


def room_of(module: str) -> str:
    """Return the room that a dotted module name lies in: the folder of the file, or the folder itself."""
    parts = module.split(".")
    while parts and not PACKAGE.parent.joinpath(*parts, "__init__.py").is_file():
        parts.pop()
    return ".".join(parts)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_other_rooms_by_their_public_names(path):
    own = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("lightning_dynprune"):
            continue
        room = room_of(node.module)
        if own == room or own.startswith(f"{room}."):
            continue  # inside a room, files import each other
        assert node.module == room, f"{node.module} is a file of another room; import its names from {room}"
        public = importlib.import_module(room).__all__
        assert not {alias.name for alias in node.names} - set(public)


@pytest.mark.parametrize("room", sorted(PACKAGE.rglob("*/__init__.py")), ids=lambda p: p.parent.name)
def test_no_module_shares_a_public_name_of_its_room(room):
    module = importlib.import_module(".".join(room.relative_to(PACKAGE.parent).parent.parts))
    files = {path.stem for path in room.parent.glob("*.py")} | {path.name for path in room.parent.iterdir()}
    assert not files & set(getattr(module, "__all__", ()))


def test_few_files_lie_outside_the_rooms():
    assert len(list(PACKAGE.glob("*.py"))) <= 6


def test_the_package_names_what_it_does_not_have():
    import lightning_dynprune

    with pytest.raises(AttributeError, match="has no attribute 'DynamicPrunning'"):
        lightning_dynprune.DynamicPrunning  # noqa: B018
