"""The table of families in the documentation; ``python -m tests.families.table`` writes it anew."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.families.convolutional import FAMILIES as CONVOLUTIONAL
from tests.families.family import Family
from tests.families.transformers import FAMILIES as TRANSFORMERS
from tests.families.trial import Outcome, slim_after_training, slim_in_trainer

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "families.md"
HEADER = (
    "| family | `channel`: Trainer | `channel`: `deploy.slim` | `head`: Trainer | `head`: `deploy.slim` "
    "| parameters kept | note |\n| --- | --- | --- | --- | --- | --- | --- |"
)
PATTERNS = ("channel", "head")
FAMILIES = [*CONVOLUTIONAL, *TRANSFORMERS]


def outcomes(family: Family, folder: Path) -> dict[str, tuple[Outcome, Outcome]]:
    """Return for each pattern what came of slimming in a Trainer, and of ``deploy.slim``."""
    found = {}
    for pattern in family.sparsity:
        in_trainer, masked = slim_in_trainer(family, pattern, folder)
        found[pattern] = (in_trainer, slim_after_training(family, pattern, masked, folder))
    return found


def row(family: Family, found: dict[str, tuple[Outcome, Outcome]]) -> str:
    """Return a family's row of the table."""
    cells = [family.name]
    for pattern in PATTERNS:
        cells += ["refused" if o.refusal else "equal" for o in found[pattern]] if pattern in found else ["-", "-"]
    sizes = {
        pattern: " and ".join(dict.fromkeys(f"{o.kept:.0%}" for o in pair if o.kept is not None))
        for pattern, pair in found.items()
    }
    cells.append(", ".join(f"{pattern} {size}" for pattern, size in sizes.items() if size) or "-")
    cells.append(family.note)
    return "| " + " | ".join(cells) + " |"


def rows_of_page() -> list[str]:
    """Return the rows of the table that stands in the documentation."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEADER.splitlines()[0]) + 2
    end = next((n for n in range(start, len(lines)) if not lines[n].startswith("|")), len(lines))
    return lines[start:end]


def write() -> None:
    """Put the rows that are found now into the documentation."""
    rows = []
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(family, outcomes(family, Path(folder))))
    text = PAGE.read_text(encoding="utf-8")
    before, after = "\n".join(rows_of_page()), "\n".join(rows)
    head, _, tail = text.partition(HEADER + "\n")
    PAGE.write_text(f"{head}{HEADER}\n{after}{tail.removeprefix(before)}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(write())
