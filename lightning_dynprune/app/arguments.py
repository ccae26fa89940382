"""The command line in the order that Hydra's parser accepts."""

from __future__ import annotations

from collections.abc import Sequence

TAKE_A_VALUE = frozenset(
    ["--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"]
)


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with all flags before all overrides.

    Hydra's parser takes overrides in one piece: those behind a flag that stands among them it calls unrecognized.

    Args:
        arguments: the command line without the program's name.

    Example:
        >>> flags_first(["sparsity=0.5", "--config-dir", "mine", "-m", "seed=1,2"])
        ['--config-dir', 'mine', '-m', 'sparsity=0.5', 'seed=1,2']
    """
    flags, overrides = [], []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        if argument in TAKE_A_VALUE:
            flags.extend(value for value in [next(rest, None)] if value is not None)
    return [*flags, *overrides]
