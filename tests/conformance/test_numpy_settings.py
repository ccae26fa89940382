"""Every setting takes NumPy scalars, and what is stored or saved holds Python numbers alone."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_dynprune import AccuracyGuard, Pruner
from lightning_dynprune.base import Registry
from lightning_dynprune.callback import DynamicPruning
from lightning_dynprune.deploy.exporting.executorch import ExecuTorch
from lightning_dynprune.deploy.kernels.selection_criteria import SelectionCriteria
from lightning_dynprune.journal import Journal
from lightning_dynprune.masks import MaskSet
from lightning_dynprune.patterns import PATTERNS
from lightning_dynprune.schedules import SCHEDULES, Constant, Horizon
from lightning_dynprune.strategies import STRATEGIES, Strategy
from lightning_dynprune.targets import find_targets
from lightning_dynprune.thresholds import THRESHOLDS
from tests.conformance import parts

# Fields without a number among their defaults, and what to give for them.
GIVEN: dict[str, dict[str, Any]] = {
    "fixed": {"theta": 0.5},
    "hysteresis": {"c": {"*": 0.5}},
    "set": {"exchange": 0.25},
    "rigl": {"exchange": 0.25},
    "head": {"heads": {"attention": 4}},
}
REGISTRIES: tuple[Registry[Any], ...] = (STRATEGIES, THRESHOLDS, SCHEDULES, PATTERNS)
PARTS = [(registry, name) for registry in REGISTRIES for name in registry.names()]


def numpy_of(value: Any) -> Any:
    """Return a number as a NumPy scalar, in mappings and sequences too."""
    if isinstance(value, Mapping):
        return {key: numpy_of(entry) for key, entry in value.items()}
    kinds = {bool: np.bool_, int: np.int64, float: np.float64}
    return kinds[type(value)](value) if type(value) in kinds else value


def numpy_scalars(value: Any) -> list[Any]:
    """Return the NumPy scalars in a value, a nesting or an object's attributes."""
    if isinstance(value, Mapping):
        return [found for entry in value.values() for found in numpy_scalars(entry)]
    if isinstance(value, (list, tuple)):
        return [found for entry in value for found in numpy_scalars(entry)]
    return [value] if isinstance(value, np.generic) else []


@pytest.mark.parametrize(("registry", "name"), PARTS, ids=[f"{r.kind}-{name}" for r, name in PARTS])
def test_every_setting_of_every_part_takes_numpy_scalars(registry, name):
    plain: dict[str, Any] = {"final": 0.75} if registry is SCHEDULES else {}
    for entry in dataclasses.fields(registry[name]):
        if entry.init and entry.default is not dataclasses.MISSING:
            plain[entry.name] = entry.default
    plain |= GIVEN.get(name, {})
    given = {key: numpy_of(value) for key, value in plain.items()}
    if any(type(value) in (bool, int, float) for value in plain.values()):
        assert numpy_scalars(given)
    part = registry.build({"name": name, **given})
    assert part == registry.build({"name": name, **plain})
    assert repr(part) == repr(registry.build({"name": name, **plain}))
    assert not numpy_scalars(vars(part))


def test_the_table_of_parts_is_complete():
    tables = (parts.STRATEGIES, parts.THRESHOLDS, parts.SCHEDULES, parts.PATTERNS)
    for registry, table in zip(REGISTRIES, tables, strict=True):
        assert set(registry.names()) == set(table)


def test_a_users_own_dataclass_takes_numpy_scalars():
    @dataclasses.dataclass
    class Own(Strategy):
        factor: float = 1.0

        def score(self, target):
            return target.weight.abs() * self.factor

    assert type(Own(np.float32(2.0)).factor) is float


def test_an_int_of_numpy_is_a_moment_in_steps_and_a_float_a_share():
    schedule = Constant(0.5, begin=np.int64(1), end=np.float32(0.5), every=np.int32(2)).resolve(Horizon(np.int64(40)))
    assert (schedule.span.begin, schedule.span.end, schedule.span.every) == (1, 20, 2)
    assert not numpy_scalars(vars(schedule.span))


def test_the_state_of_a_run_with_numpy_settings_loads_with_weights_only():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    pruner = Pruner(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        sparsity=np.float64(0.5),
        strategy={"name": "rigl", "exchange": np.float32(0.25)},
        schedule={"name": "constant", "begin": np.int64(0), "end": np.int64(6), "every": np.int64(2)},
        targets={"0.*": {"min_kept": np.int64(2)}, "*": None},
        min_kept=np.int64(1),
        reconstruct=np.bool_(False),
        rewind=np.int64(1),
        journal={"remember_values": np.bool_(True), "cap": np.float64(8.0), "longest": np.int64(5)},
        seed=np.int64(3),
        total_steps=np.int64(8),
        steps_per_epoch=np.int64(4),
        epochs=np.int64(2),
    )
    guard = AccuracyGuard(
        max_drop=np.float32(0.5), reference=np.float64(0.9), patience=np.int64(1), raise_by=np.float64(0.25)
    )
    for _ in range(4):
        model(torch.randn(4, 8)).sum().backward()
        pruner.optimizers[0].step()
        pruner.tick()
        guard.judge(np.float32(0.8), pruner)
    pruner.update(np.float32(0.75))
    assert pruner.sparsity == 0.75
    state = {"pruner": pruner.state_dict(), "guard": guard.state_dict()}
    assert not numpy_scalars(state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded["pruner"]["seed"] == 3


def test_settings_of_the_other_rooms_take_numpy_scalars():
    model = nn.Linear(4, 4)
    (target,) = find_targets(model, {"*": {"sparsity": np.float64(0.5), "min_kept": np.int64(2)}})
    assert (type(target.sparsity), type(target.min_kept)) == (float, int)
    (target,) = find_targets(model, min_kept=np.int64(3))
    assert type(target.min_kept) is int
    journal = Journal(MaskSet([target]), np.bool_(True), np.float32(4.0), np.int64(9))
    assert (journal.remember_values, journal.cap, journal.longest) == (True, 4.0, 9)
    assert not numpy_scalars([journal.remember_values, journal.cap, journal.longest])
    assert journal.mask_at(np.int64(0))["weight"].all()
    guard = AccuracyGuard(max_drop=np.float32(0.5), until_limit=np.bool_(True))
    assert not numpy_scalars(vars(guard))
    assert not numpy_scalars(
        vars(SelectionCriteria(np.float64(0.0), np.float64(0.1), torch.device("cpu"), np.bool_(False)))
    )
    assert type(ExecuTorch(max_batch=np.int64(4)).max_batch) is int
    DynamicPruning(np.float64(0.5), min_kept=np.int64(2), seed=np.int64(1), journal=np.bool_(False))
