"""Feeds a reader with files that are nearly right: ``python -m tests.fuzzing.harness compact --seconds 600``.

With atheris (``pip install atheris``) coverage guides the changes; ``--plain`` makes them at random over the corpus,
and needs nothing. An input that breaks the promise is written to ``crash-*`` in the working folder: make it a file of
``tests/fuzzing/corpus/<reader>``, where ``test_corpus.py`` reads it again, and mend the reader.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from tests.fuzzing.attacks import ATTACKS
from tests.fuzzing.bounds import bounded

READERS = (
    "compact", "slim", "weights", "choice", "results", "sweep", "checkpoint", "resumed", "state", "adaptive", "idx",
)  # fmt: skip
CORPUS = Path(__file__).parent / "corpus"
MOST = 2**14  # bytes of an input
INTERESTING = (b"\0", b"\xff", b"-1", b"1e999", b"9" * 30, b"null", b"true", b"[[", b"{}", b"../x", b"NaN", b'"', b",")


def reader(name: str) -> ModuleType:
    """Return the module of a reader: its ``seeds``, ``read`` and the errors that it ``ACCEPTED``."""
    return import_module(f"tests.fuzzing.read_{name}")


def corpus(name: str) -> list[Path]:
    """Return the files that a reader is fed with first."""
    return sorted((CORPUS / name).iterdir())


def write_seeds() -> None:
    """Write the files as they should be into the corpus, and the attacks that are small enough."""
    for name in READERS:
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            files = reader(name).seeds(Path(folder))
        attacks = {attack: make() for attack, make in ATTACKS.get(name, {}).items()}
        files |= {attack: data for attack, data in attacks.items() if len(data) <= MOST}
        for file, data in files.items():
            (CORPUS / name / file).write_bytes(data)


def mutated(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Return bytes with some changes."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        place = chance.randrange(len(changed) + 1)
        kind = chance.randrange(7)
        if kind == 0 and changed:
            changed[place - 1] ^= 1 << chance.randrange(8)
        elif kind == 1 and changed:
            changed[place - 1] = chance.randrange(256)
        elif kind == 2:
            changed[place:place] = chance.choice(INTERESTING)
        elif kind == 3:
            del changed[place : place + chance.choice((1, 2, 8, 64))]
        elif kind == 4:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            changed[place : place + chance.randrange(64)] = other[start : start + chance.randrange(64)]
        elif kind == 5 and changed:
            start = chance.randrange(len(changed))
            changed[place:place] = changed[start : start + chance.choice((1, 4, 16, 256))]
        else:
            changed[place : place + 8] = chance.choice((0, 1, 2**31, 2**63, 2**64 - 1)).to_bytes(8, "little")
    return bytes(changed[:MOST])


def feed_at_random(name: str, feed: Callable[[bytes], None], seconds: float, seed: int) -> int:
    """Feed a reader for some seconds, once at least; return how often."""
    chance, pool = random.Random(seed), [path.read_bytes() for path in corpus(name)]
    end, count = time.monotonic() + seconds, 0
    while not count or time.monotonic() < end:
        data = mutated(chance.choice(pool), pool, chance)
        try:
            feed(data)
        except BaseException:
            crash = Path(f"crash-{name}-{hashlib.sha256(data).hexdigest()[:12]}")
            crash.write_bytes(data)
            print(f"{crash} after {count} inputs", file=sys.stderr)
            raise
        count += 1
    return count


def main() -> None:
    """Feed one reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=(*READERS, "seeds"))
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--plain", action="store_true", help="change at random, without atheris")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.reader == "seeds":
        write_seeds()
        return
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as grown:
        if given.plain:
            module = reader(given.reader)

            def feed(data: bytes) -> None:
                with bounded():
                    module.read(data, Path(scratch))

            count = feed_at_random(given.reader, feed, given.seconds, given.seed)
            print(f"{given.reader}: {count} inputs in {given.seconds} s, nothing found")
            return
        import atheris

        with atheris.instrument_imports(include=["lightning_dynprune", "safetensors", "json", "gzip", "zipfile"]):
            module = reader(given.reader)

        def guided(data: bytes) -> None:
            with bounded():
                module.read(data, Path(scratch))

        options = [f"-max_total_time={given.seconds}", f"-max_len={MOST}", "-rss_limit_mb=4096", "-print_final_stats=1"]
        folder = str(CORPUS / given.reader)
        atheris.Setup([sys.argv[0], grown, folder, f"-artifact_prefix=crash-{given.reader}-", *options], guided)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
