"""Which changes of the source do the tests not notice?

    python benchmarks/mutation.py run selection masks              # every mutant of two rooms
    python benchmarks/mutation.py run engine coupling --share 0.2  # a fifth of each file's mutants, drawn by --seed
    python benchmarks/mutation.py table                            # what is known by now, room by room
    python benchmarks/mutation.py left                             # the mutants that survived, as differences

Runs mutmut with its settings in ``pyproject.toml``: a copy of the package and its tests in ``mutants/``, one change at
a time, against the tests that pass through the changed function, the fastest first and no more than ``--seconds`` of
them. Results stay in ``mutants/``. A mutant that was tried is not tried again, unless it survived and ``--again`` is
given.

mutmut leaves out decorated functions. Here those under ``torch.no_grad``, ``property`` and ``contextmanager`` are
changed as well, because the code that writes masks stands there; and a piece of text is changed once, not three times.
Needs ``pip install -e ".[dev]"``, and fork: Linux or macOS.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import libcst as cst
from mutmut import __main__ as mutmut
from mutmut.mutation import file_mutation, mutators
from mutmut.mutation.data import SourceFileMutationData
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import get_mutant_name
from rich.console import Console
from rich.table import Table

DECORATORS = {"property", "contextmanager", "torch.no_grad()"}


def change_decorated_functions() -> None:
    """Let mutmut change functions under one of ``DECORATORS``: the copies that it switches between have none."""
    skips = file_mutation.MutationVisitor._skip_node_and_children
    arranged = file_mutation.function_trampoline_arrangement

    def plain(node: cst.CSTNode) -> bool:
        if not isinstance(node, cst.FunctionDef) or not node.decorators:
            return False
        return all(cst.Module([]).code_for_node(one.decorator) in DECORATORS for one in node.decorators)

    def skip(self: file_mutation.MutationVisitor, node: cst.CSTNode) -> bool:
        return skips(self, node.with_changes(decorators=[]) if plain(node) else node)

    def arrange(function: cst.FunctionDef, mutants: Iterable, class_name: str | None) -> tuple:
        if not plain(function):
            return arranged(function, mutants, class_name)
        empty, (switch, *copies), filled, names = arranged(function.with_changes(decorators=[]), mutants, class_name)
        switch = switch.with_changes(decorators=[*function.decorators, *switch.decorators])
        return empty, [switch, *copies], filled, names

    file_mutation.MutationVisitor._skip_node_and_children = skip
    file_mutation.function_trampoline_arrangement = arrange


def change_text_once() -> None:
    """Leave one mutant of the three that mutmut makes of each piece of text."""
    original = mutators.operator_string

    def once(node: cst.BaseString) -> Iterator[cst.BaseString]:
        yield from list(original(node))[:1]

    operators = [(kind, once if make is original else make) for kind, make in mutators.mutation_operators]
    mutators.mutation_operators[:] = operators


def use_fastest_tests(seconds: float) -> None:
    """Let mutmut try each mutant with the fastest of its tests, which together take no longer than ``seconds``."""
    collect = mutmut.collect_or_load_stats

    def collect_fastest(*args: Any, **kwargs: Any) -> None:
        collect(*args, **kwargs)
        times, tests_of = mutmut.state().duration_by_test, mutmut.state().tests_by_mangled_function_name
        for function, tests in tests_of.items():
            ordered = sorted(tests, key=lambda test: (times[test], test))
            spent = accumulate(times[test] for test in ordered)
            tests_of[function] = {
                test for test, total in zip(ordered, spent, strict=True) if total - times[test] < seconds
            }

    mutmut.collect_or_load_stats = collect_fastest


def room_of(path: Path) -> str:
    """Return the room of a file of the package; ``deploy/slimming`` is one of its own."""
    folders = path.parent.parts[1:]
    return "/".join(folders[:2]) if folders[:1] in (("deploy",), ("engine",)) else folders[0]


def known(path: Path) -> dict[str, str]:
    """Return the state of each mutant of ``path`` as the last run left it."""
    data = SourceFileMutationData(path=path)
    data.load()
    return {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}


def drawn(rooms: Sequence[str], share: float, seed: int) -> Iterator[tuple[Path, list[str]]]:
    """Yield the files of ``rooms`` with the mutants drawn of each: at least one, and the same for the same seed."""
    for path in sorted(mutmut.walk_mutatable_files()):
        if not any(Path(*path.parts[1:]).is_relative_to(room) for room in rooms):
            continue
        names = [get_mutant_name(path, name) for name in mutated(path)]
        number = min(len(names), max(1, round(share * len(names))))
        yield path, sorted(random.Random(f"{seed} {path}").sample(names, number))


def mutated(path: Path) -> Sequence[str]:
    """Return the names of all mutants of a file, as mutmut numbers them."""
    return file_mutation.mutate_file_contents(str(path), path.read_text()).mutant_names


def run(rooms: Sequence[str], share: float, seed: int, again: bool, processes: int) -> None:
    """Try the drawn mutants of ``rooms`` that have no result yet, or with ``again`` those that survived."""
    states = {"survived", "no tests", "timeout"} if again else {"not checked"}
    names = [
        name
        for path, chosen in drawn(rooms, share, seed)
        for state in [known(path)]
        for name in chosen
        if state.get(name, "not checked") in states
    ]
    print(f"{len(names)} mutants to try")
    if names:
        mutmut._run(names, processes)


def table() -> Table:
    """Return the numbers of mutants, room by room."""
    columns = ("killed", "survived", "no tests", "timeout", "segfault", "suspicious", "not checked")
    counts: dict[str, Counter[str]] = {}
    for path in sorted(mutmut.walk_mutatable_files()):
        counts.setdefault(room_of(path), Counter()).update(known(path).values())
    result = Table("room", "mutants", "tried", *columns)
    for room, count in {**counts, "all": sum(counts.values(), Counter())}.items():
        tried = count.total() - count["not checked"]
        result.add_row(room, *map(str, (count.total(), tried, *(count[column] for column in columns))))
    return result


def left(rooms: Sequence[str]) -> None:
    """Print the difference that each surviving mutant makes."""
    for path in sorted(mutmut.walk_mutatable_files()):
        if any(Path(*path.parts[1:]).is_relative_to(room) for room in rooms or ["."]):
            for name, state in known(path).items():
                if state not in ("killed", "not checked"):
                    print(f"# {name}: {state}", mutmut.get_diff_for_mutant(name, path=path), sep="\n")


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table", "left"])
    parser.add_argument("rooms", nargs="*", help="folders or files of the package")
    parser.add_argument("--share", type=float, default=1.0, help="share of each file's mutants that is tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="time of the tests that one mutant is tried with")
    parser.add_argument("--again", action="store_true", help="try those again that survived")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    change_decorated_functions()
    change_text_once()
    use_fastest_tests(arguments.seconds)
    if arguments.what == "run":
        run(arguments.rooms or ["."], arguments.share, arguments.seed, arguments.again, arguments.processes)
    elif arguments.what == "left":
        left(arguments.rooms)
    else:
        Console().print(table())


if __name__ == "__main__":
    main()
