"""The program ``dynprune`` as a user starts it: a process of its own, shortened by overrides.

Importing torch and Lightning takes most of a short run's time, so one process imports them once and forks for each run
after; nothing of the program has been used in it by then.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TIMEOUT = 600  # seconds
SHORT = ("trainer.max_epochs=3", "data.batch_size=128", "checkpoint.every_n_steps=4", "logger=none")

OF_THIS_PROCESS = ("DYNPRUNE_DATA", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT")

FORKER = """
import atexit, gc, json, os, runpy, signal, sys, threading, traceback
gc.disable()  # what is imported stays
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

def end(code):
    # As an interpreter ends, except that it does not take its modules apart one by one, which takes a second.
    if "joblib.externals.loky.reusable_executor" in sys.modules:
        # Its thread ends by a hook of the interpreter's own end.
        sys.modules["joblib.externals.loky.reusable_executor"].get_reusable_executor().shutdown(kill_workers=True)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

def work(asked):
    os.setsid()
    # A parent in the background has Ctrl-C switched off, and a child inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(asked["folder"])
    for number, path in ((0, os.devnull), (1, asked["stdout"]), (2, asked["stderr"])):
        os.dup2(os.open(path, os.O_RDWR), number)
    sys.argv = [asked["program"] or "dynprune", *asked["arguments"]]
    if asked["program"]:
        sys.path[0] = os.path.dirname(asked["program"])  # as for any script; the working folder stood here, as for -m
    sys.path[:0] = asked["path"]
    if asked["stop"]:
        stop_at(*asked["stop"])
    try:
        runpy.run_path(asked["program"], run_name="__main__") if asked["program"] else run()
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        end(exit.code if isinstance(exit.code, int) else int(exit.code is not None))
    except BaseException:
        traceback.print_exc()
        end(1)
    end(0)

gc.collect()
gc.freeze()  # a collection in a child would touch, and so copy, all that the imports have made
gc.enable()
for line in sys.stdin:
    asked = json.loads(line)
    if "pid" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["pid"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if not child:
        work(asked)
    print(child, flush=True)
"""


@dataclass
class Done:
    """What came of a run: its exit status (minus the signal that ended it) and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Started:
    """A run that was started and may still be running.

    Args:
        asked: what the process that forks is to do.
    """

    def __init__(self, **asked: Any) -> None:
        self._out, self._err = (tempfile.NamedTemporaryFile("r") for _ in range(2))  # noqa: SIM115
        self.pid = _ask({**asked, "stdout": self._out.name, "stderr": self._err.name})
        self._done: Done | None = None

    def wait_for(self, file: Path) -> None:
        """Wait until the run has written a file."""
        ends = time.monotonic() + TIMEOUT
        while not file.exists():
            assert time.monotonic() < ends, f"no {file} after {TIMEOUT} s: {self._out.read()}{self._err.read()}"
            time.sleep(0.01)

    def end(self) -> Done:
        """Wait until the process has ended, end those that it leaves running, and return what came of it."""
        if self._done is None:
            with self._out as out, self._err as err:
                code = _ask({"pid": self.pid})
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                self._done = Done(code, out.read(), err.read())
        return self._done

    def send(self, sent: signal.Signals) -> Done:
        """Send the process a signal unless it has ended; return what came of it."""
        if self._done is None:
            os.kill(self.pid, sent)
        return self.end()


def started(
    *arguments: str,
    folder: Path,
    stop: tuple[str, str, int, str] | None = None,
    path: Sequence[str] = (),
    program: Path | None = None,
) -> Started:
    """Start the program in ``folder``, in a process forked behind the imports.

    Args:
        arguments: of the command line.
        folder: to run in.
        stop: training, callback event and optimizer step at which it gets a signal, and that signal.
        path: where modules come from, before other places.
        program: a script that is run in the program's place.
    """
    places = {"folder": str(folder), "path": list(path), "program": None if program is None else str(program)}
    return Started(arguments=arguments, stop=stop, **places)


def dynprune(*arguments: str, **places: Any) -> Done:
    """Run the program to its end; the arguments are those of ``started``."""
    return started(*arguments, **places).end()


def dynprune_afresh(*arguments: str, folder: Path, path: str = "") -> Done:
    """Run the program in ``folder``, in a new interpreter, with ``path`` among the places that modules come from."""
    done = subprocess.run(
        [sys.executable, "-m", "lightning_dynprune", *arguments],
        cwd=folder,
        env=environment(path),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def stopped(
    phase: str, event: str, step: int, *arguments: str, folder: Path, by: str = "SIGKILL", path: Sequence[str] = ()
) -> Done:
    """Run the program and send it a signal in ``phase``, at the callback event ``event`` of optimizer step ``step``."""
    return dynprune(*arguments, folder=folder, stop=(phase, event, step, by), path=path)


def _ask(question: dict[str, Any]) -> int:
    forker = _forker()
    assert forker.stdin is not None
    assert forker.stdout is not None
    forker.stdin.write(json.dumps(question) + "\n")
    forker.stdin.flush()
    return int(forker.stdout.readline())


@cache
def _forker() -> subprocess.Popen[str]:
    forker = subprocess.Popen(
        [sys.executable, "-c", FORKER], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(forker.kill)
    return forker


def environment(path: str = "") -> dict[str, str]:
    """Return an environment in which the program is found, and finds no data of the machine's and no other ranks."""
    env = {key: value for key, value in os.environ.items() if key not in OF_THIS_PROCESS}
    paths = [path, str(Path(__file__).parents[2]), env.get("PYTHONPATH", "")]
    return {**env, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def results(folder: Path) -> dict[str, Any]:
    """Return a run's ``results.json`` without what depends on the time and the place."""
    found = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in found.items() if key not in ("seconds", "overrides", "config")}


def words(text: str) -> str:
    """Return a message in one line, however a terminal wrapped it."""
    return re.sub(r"\s+", " ", text)
