"""Checkpoints that are cut off, have a bit flipped, come from elsewhere or from another release."""

from __future__ import annotations

import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_dynprune import DynamicPruning
from lightning_dynprune.app.runs import ResumeError, read_run
from lightning_dynprune.base import DamagedError, state_checksum, validate_checkpoint_file
from lightning_dynprune.engine import sealed
from tests.compatibility.runs import EPOCHS, Module, pruning
from tests.conformance.loop import Run, same
from tests.training import trainer

STRATEGIES = ("taylor", "rigl", "straight_through")


def tensors_in(state: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor of a state."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors_in(value)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_flipped_bit_of_the_pruning_state_is_taken_for_a_value(strategy):
    run = Run({"strategy": {"name": strategy}, "schedule": {"name": "cubic", "begin": 1, "end": 16, "every": 3}})
    for _ in range(12):
        run.step()
    state = run.pruner.state_dict()
    Run({"strategy": {"name": strategy}}).pruner.load_state_dict(state)
    other = Run({"strategy": {"name": strategy}}).pruner
    before = other.state_dict()
    flat = [tensor.view(-1).view(torch.uint8) for tensor in tensors_in(state) if tensor.numel()]
    chance = random.Random(strategy)
    for _ in range(150):
        tensor = chance.choice(flat)
        place, bit = chance.randrange(tensor.numel()), 1 << chance.randrange(8)
        tensor[place] ^= bit
        with pytest.raises(DamagedError, match="does not match its checksum, so it is damaged"):
            other.load_state_dict(state)
        tensor[place] ^= bit
    for key in ("updates", "seed", "previous_sparsity", "at_min_kept", "clock"):
        with pytest.raises(DamagedError, match="does not match its checksum"):
            other.load_state_dict({**state, key: None})
    assert same(other.state_dict(), before)
    other.load_state_dict(state)


def test_a_checksum_is_that_of_the_values_whatever_their_layout_and_order():
    weight = torch.arange(24.0).reshape(2, 3, 2, 2)
    state = {"a": weight, "b": [1, 2.5, None, True, ("x", torch.zeros(0))]}
    assert state_checksum(state) == state_checksum({"b": state["b"], "a": weight.to(memory_format=torch.channels_last)})
    for other in ({"b": [1, 2.5, None, 1, ("x", torch.zeros(0))]}, {"a": weight.reshape(2, 3, 4)}, {"c": 0}):
        assert state_checksum({**state, **other}) != state_checksum(state)
    with pytest.raises(TypeError, match="holds a set"):
        state_checksum({"a": {1}})
    assert state_checksum({"a": [1, 2]}) != state_checksum({"a": [2, 1]})
    assert state_checksum([torch.zeros(2), torch.ones(2)]) != state_checksum([torch.ones(2), torch.zeros(2)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Return a checkpoint of half a training."""
    return fitted(tmp_path_factory.mktemp("saved"), pruning("taylor"))


def fitted(folder: Path, *callbacks: L.Callback, resume: Path | None = None) -> Path:
    """Train, from a checkpoint where one is given; return the checkpoint of its tenth step."""
    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=10, save_top_k=-1)
    torch.manual_seed(7)
    trainer([*callbacks, saver], folder, max_epochs=EPOCHS).fit(Module(), ckpt_path=resume)
    return folder / "step=10.ckpt"


def flipped(path: Path, place: int, bit: int = 4) -> Path:
    """Return a copy of a file with one bit flipped."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    copy = path.with_name(f"flipped-{place}-{bit}.ckpt")
    copy.write_bytes(content)
    return copy


def test_a_bit_flipped_in_the_weights_is_noticed_before_the_first_batch(saved, tmp_path):
    weights = torch.load(saved, weights_only=True)["state_dict"]["net.0.weight"]
    place = saved.read_bytes().index(weights.numpy().tobytes())
    damaged = flipped(saved, place + 3, bit=1)
    assert not same(torch.load(damaged, weights_only=True)["state_dict"]["net.0.weight"], weights)  # torch is content

    class Untouched(Module):
        def training_step(self, *args: Any) -> Any:
            raise AssertionError("a batch was trained")

    with pytest.raises(
        DamagedError, match=rf"ckpt_path={damaged} is damaged or truncated \(Bad CRC-32 for file '.+'\)"
    ):
        trainer([pruning("taylor")], tmp_path, max_epochs=EPOCHS).fit(Untouched(), ckpt_path=damaged)


def test_wherever_a_bit_flips_in_the_file_it_is_noticed_or_changes_nothing_that_is_loaded(saved):
    whole = torch.load(saved, weights_only=True)
    chance, size, noticed = random.Random(0), saved.stat().st_size, 0
    for _ in range(300):
        damaged = flipped(saved, chance.randrange(size), chance.randrange(8))
        try:
            validate_checkpoint_file(damaged, "ckpt_path")
        except DamagedError:
            noticed += 1
        else:
            # Padding between the parts, or a field of the archive that nobody reads, or that torch refuses.
            try:
                assert same(torch.load(damaged, weights_only=True), whole)
            except RuntimeError as error:
                assert "PytorchStreamReader" in str(error)  # noqa: PT017 - either is right
        damaged.unlink()
    assert noticed > 200


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_checkpoint_that_is_cut_off_is_refused_by_name(saved, share, tmp_path):
    cut = tmp_path / "cut.ckpt"
    content = saved.read_bytes()
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DamagedError, match=f"resume={cut} is damaged or truncated"):
        validate_checkpoint_file(cut, "resume")
    with pytest.raises(ResumeError, match=f"resume={cut} is damaged or truncated"):
        read_run(cut)
    with pytest.raises((RuntimeError, OSError)):  # by torch, before the callback has its turn
        trainer([pruning("taylor")], tmp_path, max_epochs=EPOCHS).fit(Module(), ckpt_path=cut)


def test_a_file_without_checksums_is_left_to_who_loads_it(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "plain.ckpt")
    finally:
        torch.serialization.set_crc32_options(True)
    validate_checkpoint_file(tmp_path / "plain.ckpt", "ckpt_path")
    (tmp_path / "other.ckpt").write_bytes(b"no archive")
    validate_checkpoint_file(tmp_path / "other.ckpt", "ckpt_path")
    validate_checkpoint_file(tmp_path / "nowhere.ckpt", "ckpt_path")


def test_an_archive_that_unfolds_is_not_read_through(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", b"\0" * 2**20)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *args: pytest.fail("a part was read"))
    validate_checkpoint_file(tmp_path / "bomb.ckpt", "ckpt_path")


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_a_training_without_pruning_is_refused_and_says_how_to_prune_its_network(tmp_path):
    dense = fitted(tmp_path / "dense")
    with pytest.raises(ValueError, match=r"holds no pruning state under 'DynamicPruning'.* fit without ckpt_path"):
        fitted(tmp_path, pruning("taylor"), resume=dense)


def test_a_checkpoint_of_a_callback_by_another_name_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="holds no pruning state under 'DynamicPruning/other'"):
        fitted(tmp_path, DynamicPruning(0.5, "magnitude", name="other"), resume=saved)


def test_a_checkpoint_of_another_model_is_refused_and_stays_as_it_is(saved, tmp_path):
    before = saved.read_bytes()
    other = Module(torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.ReLU(), torch.nn.Linear(12, 4)))
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict for Module"):
        trainer([pruning("taylor")], tmp_path, max_epochs=EPOCHS).fit(other, ckpt_path=saved)
    assert saved.read_bytes() == before


def test_a_pruning_state_of_an_older_release_is_refused_by_both_versions(saved, tmp_path):
    content = torch.load(saved, weights_only=True)
    state = content["callbacks"]["DynamicPruning"]
    content["callbacks"]["DynamicPruning"] = sealed({**state, "version": 3})
    older = tmp_path / "older.ckpt"
    torch.save(content, older)
    with pytest.raises(ValueError, match=r"of version 3 cannot be read; expected 5 or 4\. Resume with the release"):
        fitted(tmp_path, pruning("taylor"), resume=older)


def test_a_checkpoint_that_nothing_happened_to_is_gone_on_from(saved, tmp_path):
    shutil.copy(saved, tmp_path / "copy.ckpt")
    ours = pruning("taylor")
    fitted(tmp_path, ours, resume=tmp_path / "copy.ckpt")
    assert abs(ours.sparsity - 0.75) * ours.pruner.masks.total <= 1
