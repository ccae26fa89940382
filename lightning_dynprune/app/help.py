"""The text of ``dynprune --help``, made from the folder of settings without composing them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from lightning_dynprune.app.arguments import CONFIG_DIR_FLAGS
from lightning_dynprune.app.settings_folder import conf_dir

WIDTH = 80  # characters of a line
HELP_FLAGS = ("--help", "-h")
_USAGE = """\
dynprune trains a network twice, dense and pruned while it trains, and compares both.

  dynprune                                         train with the settings below
  dynprune sparsity=0.95 strategy=rigl             change settings, choose from groups
  dynprune -m sparsity=0.5,0.9 seed=0,1            sweep over every combination
  dynprune resume=FOLDER                           continue a stopped run
  dynprune sweep.resume=FOLDER                     continue a stopped sweep
  dynprune task=deploy checkpoint=FOLDER           measure a trained run
  dynprune --cfg job KEY=VALUE                     print every setting, train nothing
  dynprune --config-dir FOLDER                     add a folder of your own groups

Groups, chosen by GROUP=NAME:
"""
_LAST = "dynprune --cfg job GROUP=NAME prints the settings of a group; --hydra-help lists Hydra's own flags."


def help_text(config_dirs: Sequence[Path] = ()) -> str:
    """Return the help: the commands, the groups with their names, and the settings outside groups.

    Args:
        config_dirs: folders given by ``--config-dir``, whose groups are listed too.
    """
    folders = [conf_dir(), *config_dirs]
    groups: dict[str, set[str]] = {}
    for path in (path for folder in folders for path in folder.glob("*/*.yaml")):
        if path.parent.name != "hydra":
            groups.setdefault(path.parent.name, set()).add(path.stem)
    lines = [_group(group, sorted(names)) for group, names in sorted(groups.items())]
    return "\n".join([_USAGE + "\n".join(lines), "", "Settings:", "", *_settings(conf_dir()), "", _LAST])


def config_dirs_of(arguments: Sequence[str]) -> list[Path]:
    """Return the folders that the command line gives by ``--config-dir``.

    Example:
        >>> [path.name for path in config_dirs_of(["--config-dir", "mine", "--help"])]
        ['mine']
    """
    flags = tuple(f"{flag}=" for flag in CONFIG_DIR_FLAGS)
    joined = [text.partition("=")[2] for text in arguments if text.startswith(flags)]
    separate = [value for flag, value in pairwise(arguments) if flag in CONFIG_DIR_FLAGS]
    return [Path(text) for text in [*joined, *separate]]


def _group(group: str, names: Iterable[str]) -> str:
    text = textwrap.fill(", ".join(names), WIDTH - 14, break_long_words=False)
    return f"  {group}: ".ljust(14) + text.replace("\n", "\n" + " " * 14)


def _settings(conf: Path) -> list[str]:
    """Return the lines of the settings outside groups, as they stand in ``config.yaml``."""
    lines = (conf / "config.yaml").read_text(encoding="utf-8").splitlines()
    own: list[str] = []
    is_own = False
    for line in lines:
        if line and not line.startswith((" ", "#")):
            is_own = not line.startswith(("defaults:", "hydra:"))
        if is_own and line.strip():
            own.append(f"  {line}")
    return own
