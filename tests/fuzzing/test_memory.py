"""No reader takes more than twice its file plus 64 MB: on the corpus, and on files made to take much more."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.app.program import environment
from tests.fuzzing.harness import READERS
from tests.fuzzing.memory import files

ALLOWANCE = 2**26
FILES = [pytest.param(name, file, id=f"{name}-{file}") for name in READERS for file in files(name)]


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, str], dict[str, Any]]:
    """Return what each file did to its reader, measured in processes of their own."""
    command = [sys.executable, "-m", "tests.fuzzing.memory"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    found = map(json.loads, done.stdout.splitlines())
    return {(each["reader"], each["file"]): each for each in found}


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_reader_takes_no_more_than_twice_its_file_plus_64_mb(measured, name, file):
    found = measured[name, file]
    assert "raised" not in found, found["raised"]
    assert found["rise"] <= 2 * found["bytes"] + ALLOWANCE


def test_the_measurement_sees_what_a_reader_takes(tmp_path):
    script = (
        "from pathlib import Path; from tests.fuzzing.memory import rise;"
        "print(rise(lambda data, folder: bool(bytes(range(256)) * 2**19), b'', Path('.')))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert abs(int(done.stdout) - 2**27) < 2**23
