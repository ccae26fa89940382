"""The command line, sorted into the order that Hydra's parser accepts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_dynprune.base import did_you_mean

CONFIG_DIR_FLAGS = ("--config-dir", "-cd")
FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"),
    *("--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn"),
    *(*CONFIG_DIR_FLAGS, "--experimental-rerun", "--info", "-i"),
)
FLAGS_WITH_VALUE = frozenset(
    ["--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"]
)


def search_working_folder(arguments: Sequence[str]) -> None:
    """Let Python find modules in the working folder, after all others, if a folder of settings is given.

    The settings name classes by ``_target_``, whose module usually lies beside the folder. Console scripts, other than
    ``python -m``, do not search the working folder.

    Args:
        arguments: the command line without the program's name.
    """
    if any(argument.startswith(CONFIG_DIR_FLAGS) for argument in arguments):
        sys.path.append(str(Path.cwd()))


def check_flags(arguments: Sequence[str]) -> None:
    """Raise if the command line holds a flag that does not exist.

    Args:
        arguments: the command line without the program's name.

    Raises:
        ValueError: naming the flag and the most similar one.

    Example:
        >>> check_flags(["--multirn", "seed=1,2"])
        Traceback (most recent call last):
        ValueError: there is no flag --multirn; did you mean --multirun? dynprune --help lists the commands
    """
    for flag in (text.partition("=")[0] for text in split_flags(arguments)[0] if text.startswith("-")):
        # argparse takes any beginning of a long flag that is unique, and "-cjob" for "-c job".
        is_known = flag in FLAGS or (not flag.startswith("--") and flag[:2] in FLAGS)
        if not is_known and sum(known.startswith(flag) for known in FLAGS) != 1:
            near = did_you_mean(flag, FLAGS) or ";"
            raise ValueError(f"there is no flag {flag}{near} dynprune --help lists the commands")


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with all flags before all overrides.

    Hydra's parser reports overrides as unrecognized arguments if a flag stands between them.

    Args:
        arguments: the command line without the program's name.

    Example:
        >>> flags_first(["sparsity=0.5", "--config-dir", "mine", "-m", "seed=1,2"])
        ['--config-dir', 'mine', '-m', 'sparsity=0.5', 'seed=1,2']
    """
    flags, overrides = split_flags(arguments)
    return [*flags, *overrides]


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flags with their values, and the overrides, each in the order given.

    Args:
        arguments: the command line without the program's name.

    Example:
        >>> split_flags(["sparsity=0.5", "--config-dir", "mine", "-m", "seed=1,2"])
        (['--config-dir', 'mine', '-m'], ['sparsity=0.5', 'seed=1,2'])
    """
    flags: list[str] = []
    overrides: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        if argument in FLAGS_WITH_VALUE:
            flags.extend(value for value in [next(remaining, None)] if value is not None)
    return flags, overrides
