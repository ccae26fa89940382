"""``dynprune task=deploy checkpoint=PATH``: the command line, completed by the settings of the measured run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from lightning_dynprune.app.arguments import CONFIG_DIR_FLAGS
from lightning_dynprune.app.runs.resume import ResumeError, read_run, safe_overrides

TASK = "task=deploy"


def expand_checkpoint(arguments: Sequence[str]) -> list[str]:
    """Put the overrides of the run before the arguments of ``task=deploy checkpoint=PATH``.

    As with ``resume``, a configuration file beside a checkpoint is never loaded. The overrides that the checkpoint
    holds as plain text are composed again with the installed configuration; overrides that could name code are
    rejected, and arguments given now replace those of the run.

    Args:
        arguments: the command line without the program's name.

    Returns:
        The arguments for Hydra; unchanged for another task, and for a file that holds only weights.

    Raises:
        ResumeError: ``-m`` is given, or the checkpoint is damaged or holds unsafe overrides.
    """
    tasks = [argument for argument in arguments if argument.startswith("task=") and argument != "task=train"]
    if tasks and {"-m", "--multirun"} & set(arguments):
        raise ResumeError(f"{tasks[0]} runs once at a time; leave out -m")
    paths = [argument.partition("=")[2].strip("'\"") for argument in arguments if argument.startswith("checkpoint=")]
    if TASK not in arguments or not paths or paths[-1] in ("", "null"):
        return list(arguments)
    path = Path(paths[-1])
    checkpoint = path / "last.ckpt" if path.is_dir() else path
    if checkpoint.suffix != ".ckpt" or not checkpoint.is_file():
        return list(arguments)
    try:
        stored = read_run(checkpoint)
        overrides = safe_overrides(stored["overrides"], arguments)
    except ResumeError as error:
        message = str(error).replace("dynprune resume=PATH", f"dynprune {TASK} checkpoint=PATH")
        raise ResumeError(message.replace("resume=", "checkpoint=")) from None
    if stored["config_dirs"] and not any(argument.startswith(CONFIG_DIR_FLAGS) for argument in arguments):
        flags = [part for config_dir in stored["config_dirs"] for part in ("--config-dir", config_dir)]
        raise ResumeError(
            f"this run used settings from {', '.join(stored['config_dirs'])}. Files are not taken from a "
            "path that a checkpoint names; if you trust that folder, give it again: "
            f"{shlex.join(['dynprune', *flags, TASK, f'checkpoint={path}'])}"
        )
    given = {_key(argument) for argument in arguments}
    # In a training, `checkpoint` is a group of settings; in this task, it is the path of the file.
    own = [text for text in overrides if _key(text) not in given and _key(text).split(".")[0] != "checkpoint"]
    return [*own, *arguments]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
