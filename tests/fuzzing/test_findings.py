"""What fuzzing has found, each as the smallest case of it."""

from __future__ import annotations

import contextlib
import copy
import json

import pytest
import torch
from torch import nn

from lightning_dynprune import DynamicPruning
from lightning_dynprune.adaptive import attach
from lightning_dynprune.app.data.idx import parse_idx
from lightning_dynprune.app.sweeps import read_jobs
from lightning_dynprune.app.tasks.dense_baseline import _read
from lightning_dynprune.deploy.compact import load_compact
from lightning_dynprune.deploy.compact.contents import Entry, validate_lengths
from lightning_dynprune.deploy.kernels.layer_choice import _without_duplicates, apply_choice
from lightning_dynprune.engine import AccuracyGuard, Pruner, sealed
from lightning_dynprune.schedules import Cosine
from tests.fuzzing import read_adaptive
from tests.fuzzing.bounds import bounded
from tests.fuzzing.read_state import started


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": "a"}, "seed='a' is not a whole number"),
        ({"reconstruct": 1}, "reconstruct=1 is not accepted; give true or false"),
        ({"min_kept": 1000}, r"sparsity=0.5 is not within reach: with min_kept=1000"),
        ({"exclude": 5}, "exclude=5 is not accepted"),
        ({"targets": {"*": {1: 2, "b": 3}}}, "0.weight has unknown setting 1"),
        ({"schedule": {"name": "cubic", "initial": -1}}, "schedule: initial=-1"),
        ({"schedule": {"name": "cubic", "end": 10**400}}, "schedule: end=1000"),
        ({"schedule": {"name": "cubic", 1: 2, "b": 3}}, "has no setting 1, 'b'"),
        ({"strategy": {"name": ["a"]}}, r"strategy=\['a'\] is unknown"),
        ({"strategy": {"name": "magnitude", "norm": True}}, "norm=True is not accepted"),
        ({"strategy": {"name": "sigmoid", "signed": "no"}}, "signed='no' is not accepted"),
        ({"strategy": {"name": "set", "exchange": Cosine(2.0)}}, "strategy set: exchange=2.0"),
        ({"threshold": {"name": "fixed"}}, "threshold 'fixed' needs the setting 'theta'"),
        ({"threshold": {"name": "fixed", "theta": 10**400}}, "theta=1000"),
        ({"threshold": {"name": "hysteresis", "c": {"*": None}}}, r"c of \*=None is not a finite number"),
        ({"threshold": {"name": "hysteresis", "c": {1: 0.5}}}, "c has the key 1; give globs"),
        ({"pattern": {"name": "head", "heads": 5}}, "pattern head: heads=5"),
        (
            {"pattern": "channel", "threshold": {"name": "hysteresis", "c": 0.5}},
            "does not go with threshold=Hysteresis",
        ),
    ],
)
def test_a_setting_that_was_let_through_is_refused(settings, message):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises((TypeError, ValueError), match=message):
        Pruner(net, **{"sparsity": 0.5, "strategy": "magnitude", "total_steps": 9, **settings})


@pytest.mark.parametrize("settings", [{"guard": "x"}, {"name": 5}, {"slim": ["end"]}])
def test_a_setting_of_the_callback_that_was_let_through_is_refused(settings):
    with pytest.raises((TypeError, ValueError), match=next(iter(settings))):
        DynamicPruning(sparsity=0.5, **settings)


@pytest.mark.parametrize("settings", [{"strategy": "wanda"}, {"reconstruct": True}])
def test_inputs_that_nobody_hands_over_are_refused_before_the_first_batch(settings):
    net = nn.MultiheadAttention(4, 2)
    with pytest.raises(ValueError, match="is the in_proj_weight of a MultiheadAttention"):
        Pruner(net, sparsity=0.5, total_steps=9, **{"strategy": "magnitude", **settings})


def test_a_run_whose_threshold_is_a_whole_number_can_be_resumed():
    def pruner() -> Pruner:
        threshold = {"name": "fixed", "theta": -1}
        return Pruner(nn.Linear(4, 4), sparsity=0.5, strategy="magnitude", threshold=threshold, total_steps=4)

    first, resumed = pruner(), pruner()
    first.update(0.5)
    resumed.load_state_dict(first.state_dict())
    assert resumed.updates == 1


STATE = started("straight_through").state_dict()
DESCRIBED = json.loads(bytes(read_adaptive.STATE["adaptive.description"].tolist()))


def packed(description: dict) -> torch.Tensor:
    return torch.tensor(list(json.dumps(description).encode()), dtype=torch.uint8)


def with_right_checksum(state: dict) -> dict:
    """Return a state that only what stands in it gives away, unless it has what no checksum is made of."""
    with contextlib.suppress(TypeError):
        return sealed(state)
    return state


def replaced(state: dict, path: str, value: object) -> dict:
    changed = copy.deepcopy(state)
    *holders, key = path.split("/")
    holder = changed
    for name in holders:
        holder = holder[name]
    if value is KeyError:
        del holder[key]
    else:
        holder[key] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", torch.zeros(2), "version tensor"),
        ("clock", KeyError, "'clock' is missing"),
        ("clock", {"step": -1, "epoch": 0}, "'clock' of the pruning state is not a step and an epoch"),
        ("updates", 2**70, "'updates' of the pruning state is not a number of updates"),
        ("scheduled_sparsity", float("nan"), "'scheduled_sparsity' of the pruning state is not a share"),
        ("original_numel", [1], "'original_numel' does not count"),
        ("original_numel", [47, 12], "'original_numel' does not count the connections of 0.weight"),
        ("masks/0.weight", KeyError, "'masks' of the pruning state does not name its targets"),
        ("masks/0.weight", 5, "mask of 0.weight in the pruning state holds more than dense tensors"),
        (
            "state/0.weight/latent",
            torch.zeros(6, 8).to_sparse(),
            "does not store all its entries",
        ),
        (
            "state/0.weight/latent",
            torch.zeros(6, 8, device="meta"),
            "does not store all its entries",
        ),
        ("state/0.weight/latent", torch.zeros(6, 8, dtype=torch.int64), r"latent \(6, 8\) whole"),
        ("state/0.weight/latent", torch.full((6, 8), 0.5), "latent values of 0.weight lie where its connections live"),
        ("state/0.weight/latent", torch.full((6, 8), -0.0), "latent values of 0.weight lie where its connections live"),
        ("last_update", {"step": 1}, "last_update: expected the figures"),
        ("units", 5, "'units' in the pruning state holds more than dense tensors"),
        ("at_min_kept", [1], "'at_min_kept' of the pruning state is not a list of names"),
        ("gradient_snapshot", 5, "'gradient_snapshot' of the pruning state is not the optimizers that have stepped"),
        (
            "gradient_snapshot",
            {"stepped_optimizers": [0], "gradients": {"0.weight": torch.zeros(3)}},
            "gradient of 0.weight in 'gradient_snapshot'",
        ),
        (
            "gradient_snapshot",
            {"stepped_optimizers": [0], "gradients": {"nobody": torch.zeros(3)}},
            "gradient of nobody in 'gradient_snapshot'",
        ),
        ("journal", [1], "'journal' of the pruning state is not a record"),
        ("journal/version", torch.zeros(2), "a record of version tensor"),
        ("journal/targets/0.weight", torch.zeros(2), "recorded from other targets"),
        (
            "journal/recorded",
            torch.zeros(2, 4, dtype=torch.int64, device="meta"),
            "the pruning state is damaged: .* does not store all its entries",
        ),
        ("journal/positions", torch.zeros(1).expand(2**40), "does not store all its entries"),
        ("journal/notes", {torch.zeros(2): 1, torch.ones(2): 2}, "a key of the state is a Tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_state_is_refused_by_the_entrys_name_and_nothing_changes(path, value, message):
    pruner = started("straight_through", steps=2)
    before = str(pruner.state_dict())
    with pytest.raises(ValueError, match=message):
        pruner.load_state_dict(with_right_checksum(replaced(STATE, path, value)))
    assert str(pruner.state_dict()) == before


def test_a_checksum_that_is_no_number_is_refused():
    pruner = started("straight_through")
    with pytest.raises(ValueError, match="does not match its checksum"):
        pruner.load_state_dict({**pruner.state_dict(), "checksum": torch.zeros(3)})


@pytest.mark.parametrize(
    "change",
    [{"best": "x"}, {"good": 5}, {"good": [-1]}, {"waited": None}, {"state": "asleep"}, {"state": []}, {"more": 1}],
)
def test_a_damaged_state_of_the_guard_is_refused(change):
    with pytest.raises(ValueError, match="the state of the guard is not what it writes"):
        AccuracyGuard().load_state_dict({**AccuracyGuard().state_dict(), **change})


@pytest.mark.parametrize("shape", [[0, 2**63], [0, 10**30], [1] * 10_000, [2**40, 2**40], [-1], [True]])
def test_a_shape_that_no_tensor_can_have_is_refused(shape):
    with pytest.raises(ValueError, match=r"not a shape|more entries than a tensor can have"):
        Entry("float32", shape, {"whole": "plain"}, 0)


def test_a_compressed_part_that_is_too_short_for_what_it_says_is_refused_before_it_is_unpacked():
    entry = Entry("float32", (10**12,), {"kept": "zstd", "values": "plain"}, 0, 0)
    with pytest.raises(ValueError, match="has 20 bytes, which cannot hold 125000000000 compressed"):
        validate_lengths({"a": entry}, {"kept:a": 20, "values:a": 0})


def test_a_header_that_claims_more_than_the_file_is_refused(tmp_path):
    for claimed in (2**63, 2**40, 2**27, 1):
        (tmp_path / "compact").write_bytes(claimed.to_bytes(8, "little") + b"{}")
        with bounded(), pytest.raises(ValueError, match="not a complete safetensors file"):
            load_compact(tmp_path / "compact")


def test_a_name_given_twice_among_many_is_found_at_once(tmp_path):
    names = ", ".join(f'"{number}": 0' for number in range(50_000))
    (tmp_path / "choice").write_text(f'{{{names}, "7": 1}}')
    with pytest.raises(ValueError, match="'7' appears twice"):
        apply_choice(nn.Linear(1, 1), tmp_path / "choice")


def test_names_are_not_compared_each_with_each():
    comparisons = 0

    class Name(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            nonlocal comparisons
            comparisons += 1
            return str.__eq__(self, other)

    pairs = [(Name(number), 0) for number in range(2_000)]
    with pytest.raises(ValueError, match="'7' appears twice"):
        _without_duplicates([*pairs, (Name(7), 0)])
    assert comparisons < 2_000


@pytest.mark.parametrize("height", [8.0, True, [[]], {"a": 1}, None])
def test_a_setting_of_a_kernel_that_is_no_whole_number_is_refused(height):
    row = {"kernel": "block", "settings": {"height": height}, "shape": [8, 4]}
    head = {"format": "lightning-dynprune kernel choice", "version": 1}
    with pytest.raises(ValueError, match="layer ''"):
        apply_choice(nn.Linear(4, 8), {**head, "layers": {"": row}})


@pytest.mark.parametrize("content", [bytes([0, 0, 8]), bytes([0, 0, 8, 255]), bytes([0, 0, 8, 2]) + b"\xff" * 8])
def test_an_idx_file_that_ends_too_early_is_refused(content):
    with pytest.raises(ValueError, match="idx file"):
        parse_idx(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", "{", "results.json is damaged"),
        ("results.json", "[1]", "it holds a list"),
        ("results.json", '{"overrides": []}', "sparsity is missing or is not a number from 0 to 1"),
        ("results.json", '{"overrides": [1]}', "overrides is missing or is not a list of texts"),
        ("results.json", '{"a": NaN}', "NaN is no number of JSON"),
        ("error.json", '{"overrides": []}', "error is missing or is not a text"),
    ],
)
def test_a_sweep_tells_of_a_jobs_damaged_file_and_goes_on(name, content, message, tmp_path):
    for job in ("0", "²"):
        (tmp_path / job / ".hydra").mkdir(parents=True)
        (tmp_path / job / ".hydra" / "overrides.yaml").touch()
    (tmp_path / "0" / name).write_text(content)
    first, second = read_jobs(tmp_path)
    assert message in (first.error or "")
    assert second.error == "ended without results"


def test_a_damaged_record_of_the_dense_baseline_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "dense.json").write_text(json.dumps({"key": "a", "accuracy": 0.5}))
    with pytest.raises(ValueError, match=r"dense\.json is damaged: val_accuracy .* move it away"):
        _read(tmp_path / "dense.json", "a")
    assert _read(tmp_path / "dense.json", "b") is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("heads.0.hidden.weight", torch.zeros(1, 1).expand(2**20, 2**20), "is no tensor that stores all its entries"),
        ("held_out_correct", torch.zeros(1, dtype=torch.bool).expand(2, 2**40), "stores all its entries"),
        ("heads.0.hidden.weight", torch.zeros(2**16, 1), r"the layers of 'heads\.0' have the shapes \(65536, 1\)"),
        ("description", torch.zeros(4), "holds no bytes"),
        ("description", packed({"method": "early_exit"}), "the state of the exits is damaged: 'after'"),
        ("description", packed({**DESCRIBED, "kinds": []}), "not one name, kind and share a cut"),
        ("description", packed({**DESCRIBED, "kinds": ["x"]}), "heads are of the kinds pooled"),
        ("description", packed({**DESCRIBED, "macs": 0}), "macs=0 is not accepted"),
        ("description", packed({**DESCRIBED, "cut_shares": [9]}), "cut_shares=9 is not accepted"),
    ],
)
def test_a_damaged_module_of_an_adaptive_method_is_refused_and_nothing_is_allocated(name, value, message):
    model = read_adaptive.network()
    with bounded(), pytest.raises(ValueError, match=message):
        attach(model, {**read_adaptive.STATE, f"adaptive.{name}": value})
    assert not hasattr(model, "adaptive")
