"""The files of the project agree: pyproject.toml, the CI workflow, the pre-commit hooks, CITATION.cff, CHANGELOG.md."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_dynprune

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # a dependency of pytest there

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))["jobs"]


def commands(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


def release(version: str) -> tuple[int, ...]:
    """Return a version's numbers, so that 2.6 and 2.6.0 are equal."""
    numbers = [int(number) for number in version.split("+")[0].split(".")]
    return tuple(numbers + [0] * (3 - len(numbers)))


def test_the_lowest_job_installs_the_lower_bound_of_every_dependency(project, jobs):
    bounds = dict(requirement.split(">=") for requirement in project["dependencies"])
    installed = dict(re.findall(r"([\w-]+)==(\S+)", commands(jobs["lowest"])))
    assert {name: release(bound) for name, bound in bounds.items()} == {
        name: release(version) for name, version in installed.items()
    }


def test_the_newest_job_runs_every_python_that_the_classifiers_name(project, jobs):
    named = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert jobs["newest"]["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"
    (lowest,) = [step["with"]["python-version"] for step in jobs["lowest"]["steps"] if "with" in step]
    assert lowest == named[0]


def test_the_lint_job_and_the_hooks_run_the_same_tools(project, jobs):
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    names = {hook["id"] for repository in hooks for hook in repository["hooks"]}
    assert names == {"ruff-check", "ruff-format", "mypy", "lint-imports"}
    assert all(name.replace("-", " ", name.startswith("ruff")) in commands(jobs["lint"]) for name in names)
    (ruff,) = [repository["rev"] for repository in hooks if "ruff" in repository["repo"]]
    assert f"ruff=={ruff.removeprefix('v')}" in project["optional-dependencies"]["dev"]


def test_the_folders_that_the_lowest_job_tests_exist(jobs):
    named = re.findall(r"tests/[\w/.]+", commands(jobs["lowest"]))
    assert len(named) > 10
    assert all((ROOT / path).exists() for path in named)


def test_the_citation_names_the_version(project):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == lightning_dynprune.__version__
    assert citation["license"] == project["license"]


def test_the_version_of_the_project_is_that_of_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["dynamic"] == ["version"]
    source = ROOT / settings["tool"]["hatch"]["version"]["path"]
    stated = re.search(r'^__version__ = "(\d+\.\d+\.\d+)"$', source.read_text(encoding="utf-8"), re.MULTILINE)
    assert stated is not None
    assert stated[1] == lightning_dynprune.__version__


def test_the_changelog_begins_with_what_is_not_released():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"


def test_every_new_path_in_the_changelog_exists():
    table = re.findall(r"^\| `.*` \| (`.*`) \|$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    paths = [path for cell in table for path in re.findall(r"`([\w.]+)`", cell)]
    assert len(paths) > 10
    for path in paths:
        room, _, name = path.rpartition(".")
        assert name in importlib.import_module(room).__all__, path


def test_the_package_is_typed():
    assert (ROOT / "lightning_dynprune/py.typed").is_file()
