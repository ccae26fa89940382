"""The folder ``conf`` with the settings of the program."""

from __future__ import annotations

from pathlib import Path


def conf_dir() -> Path:
    """Return the folder ``conf``: inside the installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    beside = package.parent / "conf"
    # An editable install may leave a copy in the package; the folder of the checkout is the one that is edited.
    return beside if (beside / "config.yaml").is_file() else package / "conf"
