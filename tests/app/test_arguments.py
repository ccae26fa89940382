"""What a command line makes Python search for modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lightning_dynprune.app.arguments import search_working_folder


@pytest.mark.parametrize("given", [["--config-dir", "conf"], ["--config-dir=conf"], ["-cd", "conf"]], ids=str)
def test_modules_beside_a_folder_of_settings_are_found_after_all_others(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["installed"])
    search_working_folder(["sparsity=0.5", *given])
    assert sys.path == ["installed", str(tmp_path)]


def test_the_working_folder_is_not_searched_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["installed"])
    search_working_folder(["sparsity=0.5", "--multirun"])
    assert sys.path == ["installed"]
