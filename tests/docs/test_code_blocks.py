"""Every Python block of README and docs is run, page by page, and prints what it says."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from typing import Any

import pytest
import torch

from tests.docs.documents import EXAMPLES, PAGES, blocks, name

# Pages whose blocks need a package that not every installation has.
NEEDS = {
    "docs/guide/deploy.md": ("onnx", "onnxscript", "onnxruntime"),
}
WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_the_python_blocks_of_a_page_run_in_order_and_print_what_they_say(page, tmp_path, monkeypatch):
    for package in NEEDS.get(name(page), ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks(page, "python"):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
            lines = iter(printed.getvalue().splitlines())
            for expected in re.findall(r"# -> (.+)$", block.text, re.MULTILINE):
                assert expected in lines, f"{block.place} does not print {expected!r}:\n{printed.getvalue()}"


def test_the_readme_and_every_page_of_the_guide_have_python_or_commands():
    for page in PAGES:
        if page.name == "README.md" or page.parent.name == "guide":
            assert blocks(page, "python") or blocks(page, "sh") or page.stem == "many_processes", name(page)
    assert len(blocks(PAGES[0], "python")) == 2


def test_no_page_has_a_block_of_a_kind_that_nothing_checks():
    directives = {"{toctree}", "{eval-rst}", "{literalinclude}", "{include}"}
    for page in PAGES:
        for block in blocks(page):
            kind = block.language.split()[0] if block.language else ""
            assert kind in {"python", "sh", "text"} | directives, f"{block.place}: {block.language!r}"
            assert kind != "text" or name(page) == "docs/architecture.md", f"{block.place}: text is not checked"
