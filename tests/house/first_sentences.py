"""Print the first sentence of every docstring in the package, in one list: ``python -m tests.house.first_sentences``.

Arguments, if any, are the rooms or files to print: ``python -m tests.house.first_sentences engine deploy/kernels``.
"""

from __future__ import annotations

import sys

from tests.house.source import FILES, first_sentences, name_of


def main(beginnings: list[str]) -> None:
    """Print one line for each docstring of the files whose path begins with one of ``beginnings``, or of all."""
    for path in FILES:
        if not beginnings or name_of(path).startswith(tuple(beginnings)):
            for name, sentence in first_sentences(path):
                print(f"{name:<60} {sentence}")


if __name__ == "__main__":
    main(sys.argv[1:])
