"""Measures the memory that readers take, in processes of their own: ``python -m tests.fuzzing.memory``.

One process imports everything and reads the good files of every reader once; for each file to be measured it forks,
and the child reads that one file. Printed is one line of JSON a file: reader, name, bytes of the file, and the bytes
by which the child's resident memory rose at its highest.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from tests.fuzzing.attacks import ATTACKS
from tests.fuzzing.harness import READERS, corpus, reader

LONGEST = 60  # seconds of CPU time, after which a reader is ended


def files(name: str) -> dict[str, Callable[[], bytes]]:
    """Return what a reader is measured on: its corpus, and the attacks that are too large for one."""
    return {**ATTACKS.get(name, {}), **{path.name: path.read_bytes for path in corpus(name)}}


def resident(figure: str) -> int:
    """Return a figure of this process's memory in bytes: VmRSS, or VmHWM, its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(figure))


def rise(read: Callable[[bytes, Path], bool], data: bytes, folder: Path) -> int:
    """Return the bytes by which memory rises at most while a reader reads.

    The file is written before, since what a reader takes is what is asked for.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    read(data, folder)
    return resident("VmHWM") - before


def measure(name: str, data: bytes) -> dict[str, object]:
    """Return what one file does to a reader, measured in a forked process."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        os.close(out)
        resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
        resource.setrlimit(resource.RLIMIT_AS, (resident("VmSize") + 2**32, resource.RLIM_INFINITY))
        found: dict[str, object]
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = {"rise": rise(reader(name).read, data, Path(folder))}
        except BaseException as error:
            found = {"raised": f"{type(error).__name__}: {str(error)[:300]}"}
        os.write(into, json.dumps({**found, "seconds": sum(os.times()[:2])}).encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(told) if told else {"raised": f"ended with status {status}"}


def main(readers: list[str]) -> None:
    """Measure the files of some readers."""
    warnings.simplefilter("ignore")
    for name in readers:
        # What a first call imports and caches is no memory that a file takes.
        for path in corpus(name):
            with tempfile.TemporaryDirectory() as folder:
                reader(name).read(path.read_bytes(), Path(folder))
    gc.collect()
    gc.freeze()
    for name in readers:
        for file, make in files(name).items():
            data = make()
            print(json.dumps({"reader": name, "file": file, "bytes": len(data), **measure(name, data)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(READERS))
