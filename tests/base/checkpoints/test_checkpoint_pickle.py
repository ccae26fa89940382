"""What a checkpoint holds in several places counts as often as whoever goes through it meets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_dynprune.base import read_checkpoint


def saved(content: Any, folder: Path) -> Path:
    torch.save({"content": content}, folder / "x.ckpt")
    return folder / "x.ckpt"


def in_ten_places(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize("value", [[], {}, (1, 2), "x" * 1000, torch.ones(300)], ids=lambda value: type(value).__name__)
def test_a_list_that_holds_one_list_in_ten_places_ten_levels_deep_is_refused(value, tmp_path):
    assert read_checkpoint(saved(in_ten_places(value, 3), tmp_path))["content"][9][9][9] is not None
    with pytest.raises(
        ValueError, match=r"more memory than twice the file plus 64 MB|larger apart than twice the file"
    ):
        read_checkpoint(saved(in_ten_places(value, 10), tmp_path))


@pytest.mark.parametrize("kind", [list, dict])
def test_what_holds_itself_is_refused(kind, tmp_path):
    value = kind()
    if kind is list:
        value.append([value])
    else:
        value["itself"] = {"value": value}
    with pytest.raises(ValueError, match="stands in another place too, which no checkpoint needs"):
        read_checkpoint(saved(value, tmp_path))


def test_values_in_two_places_are_one_object_again(tmp_path):
    module, group = nn.Linear(2, 2), {"lr": 0.1, "betas": (0.9, 0.99)}
    found = read_checkpoint(saved([group, group, module.state_dict(), module.weight, module.weight], tmp_path))
    first, second, state, weight, other = found["content"]
    assert first is second
    assert weight is other
    assert torch.equal(state["weight"], weight)
