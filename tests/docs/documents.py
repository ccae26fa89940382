"""The code blocks of the README and of the pages under ``docs/``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "extending" / "examples"
PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]
_FENCE = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file it stands in.
        language: the language, or the directive, as the fence names it.
        line: number of its first line.
        text: what stands between the fences.
    """

    page: Path
    language: str
    line: int
    text: str

    @property
    def place(self) -> str:
        """Page and line, as a traceback shows them."""
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    """Return a page's path from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the blocks of a page in order, of one language or of all."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, match[2].strip(), text.count("\n", 0, match.start()) + 2, match[3])
        for match in _FENCE.finditer(text)
    ]
    return [block for block in found if language is None or block.language == language]


def commands(page: Path) -> list[str]:
    """Return the commands of a page's shell blocks: continued lines joined, chains split, comments left out."""
    lines = [
        line.partition(" #")[0]
        for block in blocks(page, "sh")
        for line in block.text.replace("\\\n", " ").splitlines()
        if not line.startswith("#")
    ]
    parts = [" ".join(part.split()) for line in lines for part in line.split("&&")]
    return [part for part in parts if part]
