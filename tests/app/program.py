"""The program ``dynprune`` as a user starts it: a process of its own, shortened by overrides.

Importing torch and Lightning takes most of a short run's time, so one process imports them once and forks for each run
after; nothing of the program has been used in it by then.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SHORT = ("trainer.max_epochs=3", "data.batch_size=128", "checkpoint.every_n_steps=4", "logger=none")

FORKER = """
import json, os, signal, sys
import lightning_dynprune.app.tasks.train
import lightning_dynprune.app.sweeps
from lightning_dynprune.app.callbacks import History
from lightning_dynprune.app.main import run

def stop_at(phase, event, step, sent):
    original = getattr(History, event, None)
    def stop(self, trainer, *rest):
        if original is not None:
            original(self, trainer, *rest)
        if (self.sparsity is None) == (phase == "dense") and trainer.global_step == step:
            os.kill(os.getpid(), getattr(signal, sent))
    setattr(History, event, stop)

for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        # A parent in the background has Ctrl-C switched off, and a child inherits that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(asked["folder"])
        for number, path in ((0, os.devnull), (1, asked["stdout"]), (2, asked["stderr"])):
            os.dup2(os.open(path, os.O_RDWR), number)
        sys.argv = ["dynprune", *asked["arguments"]]
        sys.path[:0] = asked["path"]
        if asked["stop"]:
            stop_at(*asked["stop"])
        run()
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Done:
    """What came of a run: its exit status (minus the signal that ended it) and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def dynprune(
    *arguments: str, folder: Path, stop: tuple[str, str, int, str] | None = None, path: Sequence[str] = ()
) -> Done:
    """Run the program in ``folder``, in a process forked behind the imports, with ``path`` before other modules'."""
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        place = {"folder": str(folder), "path": list(path), "stdout": out.name, "stderr": err.name}
        asked = {"arguments": arguments, "stop": stop, **place}
        forker = _forker()
        assert forker.stdin is not None
        assert forker.stdout is not None
        forker.stdin.write(json.dumps(asked) + "\n")
        forker.stdin.flush()
        return Done(int(forker.stdout.readline()), out.read(), err.read())


def dynprune_afresh(*arguments: str, folder: Path, path: str = "", program: Path | None = None) -> Done:
    """Run the program in ``folder``, in a process of its own, with ``path`` among those that modules come from.

    Args:
        arguments: of the command line.
        folder: to run in.
        path: where modules come from, besides.
        program: a script that runs it; by default the program itself.
    """
    done = subprocess.run(
        [sys.executable, *(["-m", "lightning_dynprune"] if program is None else [str(program)]), *arguments],
        cwd=folder,
        env=environment(path),
        capture_output=True,
        text=True,
        timeout=600,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def stopped(
    phase: str, event: str, step: int, *arguments: str, folder: Path, by: str = "SIGKILL", path: Sequence[str] = ()
) -> Done:
    """Run the program and send it a signal in ``phase``, at the callback event ``event`` of optimizer step ``step``."""
    return dynprune(*arguments, folder=folder, stop=(phase, event, step, by), path=path)


@cache
def _forker() -> subprocess.Popen[str]:
    forker = subprocess.Popen(
        [sys.executable, "-c", FORKER], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(forker.kill)
    return forker


def environment(path: str = "") -> dict[str, str]:
    """Return an environment in which the program is found and finds no data of the machine's."""
    env = {key: value for key, value in os.environ.items() if key != "DYNPRUNE_DATA"}
    paths = [path, str(Path(__file__).parents[2]), env.get("PYTHONPATH", "")]
    return {**env, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def results(folder: Path) -> dict[str, Any]:
    """Return a run's ``results.json`` without what depends on the time and the place."""
    found = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in found.items() if key not in ("seconds", "overrides", "config")}


def words(text: str) -> str:
    """Return a message in one line, however a terminal wrapped it."""
    return re.sub(r"\s+", " ", text)
