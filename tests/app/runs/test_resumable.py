"""A checkpoint in which an entry is missing is refused by the entry's name."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as L
import pytest
import torch

from lightning_dynprune.app.callbacks import LastCheckpoint
from lightning_dynprune.app.interrupt import StopRequest
from lightning_dynprune.app.runs import ResumeError, RunFolder, random_state, restore_random_state, validate_resumable

LOOPS = L.Trainer(logger=False, enable_checkpointing=False).fit_loop.state_dict()
WHOLE: dict[str, Any] = {
    **dict.fromkeys(("epoch", "global_step", "pytorch-lightning_version", "state_dict")),
    **dict.fromkeys(("optimizer_states", "lr_schedulers", "Digits")),
    "callbacks": {"DynamicPruning": {}, "History": {}},
    "loops": {"fit_loop": LOOPS},
}


def paths(tree: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the place of every key in nested mappings."""
    own = [(*above, key) for key in tree]
    return own + [
        path for key, value in tree.items() if isinstance(value, dict) for path in paths(value, (*above, key))
    ]


def validate(content: dict[str, Any], folder) -> None:
    torch.save(content, folder / "last.ckpt")
    validate_resumable(folder / "last.ckpt", LOOPS, ["DynamicPruning", "History"], "Digits")


def test_each_missing_entry_is_named(tmp_path):
    validate(WHOLE, tmp_path)
    assert len(paths(WHOLE)) > 40
    for path in paths(WHOLE):
        content = copy.deepcopy(WHOLE)
        holder = content
        for key in path[:-1]:
            holder = holder[key]
        del holder[path[-1]]
        with pytest.raises(ResumeError, match=f"'{'/'.join(path)}' is missing"):
            validate(content, tmp_path)


@pytest.mark.parametrize("key", ["python", "numpy", "torch", "cuda"])
def test_a_random_state_without_a_generator_is_refused_by_its_name(key):
    state = {name: value for name, value in random_state().items() if name != key}
    with pytest.raises(ValueError, match=f"the random state is damaged: '{key}'"):
        restore_random_state(state)


def test_a_state_of_the_checkpoint_without_random_state_is_refused(tmp_path):
    callback = LastCheckpoint(tmp_path / "last.ckpt", 1, RunFolder(tmp_path, [], {}), StopRequest())
    with pytest.raises(ValueError, match="'random', the random state, is missing"):
        callback.load_state_dict({})
