"""The package says its version, and that it is typed."""

from __future__ import annotations

import re
from pathlib import Path

import lightning_dynprune

ROOT = Path(__file__).parents[2]


def test_the_version_is_that_of_the_project():
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert stated is not None
    assert lightning_dynprune.__version__ == stated[1]


def test_the_package_is_marked_as_typed():
    assert (Path(lightning_dynprune.__file__).parent / "py.typed").is_file()
