"""The folders of tests/ are those of the package, and a few that cut across its rooms."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.source import PACKAGE

TESTS = Path(__file__).parents[1]
# Folders of tests that no single room could hold, and what each of them holds.
ACROSS = {
    "benchmarks": "the scripts in benchmarks/",
    "compatibility": "PyTorch and Lightning features beside pruning, one row of the compatibility matrix each",
    "conformance": "every registered part, held to the design's promises",
    "docs": "the code blocks and commands of the documentation",
    "families": "public families of networks, slimmed in every way; the table of them in the documentation",
    "faults": "full disks, killed runs, broken files and numbers that are not finite",
    "fuzzing": "random settings and random bytes",
    "house": "rules about the source itself",
    "processes": "several processes that train one model",
}
# Rooms whose tests need several processes, and stand with the others that do.
WITHOUT_FOLDER = {"distributed": "processes"}


def folders(top: Path) -> list[Path]:
    """Return the folders under ``top`` that hold Python files, as paths relative to it."""
    return sorted({path.parent.relative_to(top) for path in top.rglob("*.py")} - {Path()})


@pytest.mark.parametrize("folder", folders(TESTS), ids=str)
def test_a_folder_of_tests_is_a_room_or_a_named_one(folder):
    if folder.parts[0] not in ACROSS:
        assert (PACKAGE / folder / "__init__.py").is_file(), f"tests/{folder} mirrors no room of the package"


@pytest.mark.parametrize("folder", folders(TESTS), ids=str)
def test_a_folder_of_tests_is_a_package(folder):
    assert (TESTS / folder / "__init__.py").is_file(), f"two files of one name could not stand in tests/{folder}"


@pytest.mark.parametrize("room", [folder.name for folder in folders(PACKAGE) if len(folder.parts) == 1])
def test_a_room_has_tests(room):
    folder = TESTS / WITHOUT_FOLDER.get(room, room)
    assert any(folder.rglob("test_*.py")), f"no test in {folder.name}/"


def test_no_test_lies_outside_the_folders():
    assert not list(TESTS.glob("test_*.py"))
    shared = {"__init__.py", "conftest.py", "networks.py", "convnets.py", "training.py"}
    assert {path.name for path in TESTS.glob("*.py")} <= shared
