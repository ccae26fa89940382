"""The groups ``dynprune/...`` in a Hydra program of a user's, from an installed wheel and from an editable install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "hydra_app"
# As the interpreter starts with the folder that pip installs into: its .pth files are read.
START = "import runpy, site, sys; site.addsitedir({site!r}); sys.path.insert(0, {site!r}); {then}"
RUN = "sys.argv = ['train.py', *{arguments}]; sys.path.insert(0, '.'); runpy.run_path('train.py', run_name='__main__')"


@pytest.fixture(scope="module", params=["wheel", "editable"])
def install(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which the package is installed, without its dependencies."""
    build = pytest.importorskip(
        "hatchling.build", reason="hatchling is not installed, so no wheel can be built offline"
    )
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        make: Callable[[str], str] = build.build_wheel if request.param == "wheel" else build.build_editable
        name = make(str(folder))
    site = folder / "site"
    zipfile.ZipFile(folder / name).extractall(site)
    return site


def run(install: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the example in ``folder``, with the package of the install and of nowhere else."""
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    paths = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = START.format(site=str(install), then=RUN.format(arguments=list(arguments)))
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_the_example_prunes_as_its_settings_and_the_command_line_say(install, tmp_path):
    done = run(
        install, tmp_path, "dynprune/strategy=rigl", "dynprune.sparsity=0.8", "dynprune.strategy.start=magnitude"
    )
    assert done.returncode == 0, done.stderr
    assert "80.0 % of the weights are zero" in done.stdout


def test_the_settings_of_the_callback_are_composed_without_torch(install, tmp_path):
    shown = run(
        install, tmp_path, "dynprune/pattern=n_m", "dynprune/schedule=cubic", "~dynprune.sparsity", "--cfg", "job"
    )
    assert shown.returncode == 0, shown.stderr
    assert "_target_: lightning_dynprune.patterns.NM" in shown.stdout
    assert "_target_: lightning_dynprune.app.hydra_apps.new_callback" in shown.stdout


def test_a_wrong_name_is_answered_by_the_names_of_the_group(install, tmp_path):
    refused = run(install, tmp_path, "dynprune/strategy=rigll")
    assert refused.returncode == 1
    assert "rigl" in refused.stderr.replace("rigll", "")
