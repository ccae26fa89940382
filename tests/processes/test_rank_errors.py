"""An error in one process ends the others, with its message: in an update, between two updates, and at the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from lightning_dynprune.distributed import held_errors
from lightning_dynprune.engine import Pruner
from lightning_dynprune.strategies import Magnitude, RigL, Strategy, Taylor, Wanda
from tests.processes.group import together
from tests.processes.training import STEPS, adam, batch, network, pruner, share, train

SCHEDULE = {"name": "cubic", "begin": 2, "end": 10, "every": 3}  # updates after steps 2, 5, 8 and 10


@pytest.fixture(scope="module", autouse=True)
def _looks_often() -> Iterator[None]:
    """Let processes forked from here look for errors of others fifty times a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_errors, "_POLL_SECONDS", 0.02)
        yield


def _is_failing(step: int, at: int) -> bool:
    return dist.get_rank() == 1 and step >= at


@dataclass(frozen=True)
class Scored(Magnitude):
    """Fails to score on one rank at the update after step 8."""

    def score(self, target: Any) -> Tensor:
        if _is_failing(target.step, 8):
            raise ValueError("no score today")
        return super().score(target)


@dataclass(frozen=True)
class Grown(RigL):
    """Fails on one rank to tell what returns, once the masks have been cut."""

    def grow(self, target: Any) -> Tensor:
        if _is_failing(target.step, 5):
            raise ValueError("nothing grows")
        return super().grow(target)


@dataclass(frozen=True)
class Seen(Wanda):
    """Fails on one rank to read the inputs of a layer."""

    def observe_inputs(self, target: Any, rows: Tensor) -> None:
        if _is_failing(target.step, 4):
            raise ValueError("inputs lost")
        super().observe_inputs(target, rows)


@dataclass(frozen=True)
class Observed(Taylor):
    """Fails on one rank to observe a gradient."""

    at: int = 5

    def observe(self, target: Any) -> None:
        if _is_failing(target.step, self.at):
            raise ValueError("gradient lost")
        super().observe(target)


def _outcome(run: Callable[[], object], ours: Pruner | None = None) -> dict[str, Any]:
    """Return the error of a run, and where its pruner stands."""
    try:
        run()
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    else:
        told = "no error"
    if ours is None:
        return {"told": told}
    return {"told": told, "step": ours.clock.step, "updates": ours.updates, "sparsity": ours.sparsity}


def _trained(rank: int, strategy: Strategy | str, prepare: Callable[[Pruner], None] | None = None) -> dict[str, Any]:
    net = network()
    optimizer, wrapped = adam(net), DistributedDataParallel(net)
    ours = pruner(net, optimizer, strategy=strategy, schedule=SCHEDULE)
    if prepare is not None:
        prepare(ours)
    found = _outcome(lambda: train(wrapped, ours, optimizer, share()), ours)
    zeros = sum(int((target.values == 0).sum()) for target in ours.targets)
    assert zeros == ours.masks.total - sum(ours.masks.kept)
    return found


def _breaks_its_journal(ours: Pruner) -> None:
    """Let the journal of one rank fail to record, once the masks of an update are written."""

    def add(*args: Any) -> None:
        raise OSError("journal lost")

    if dist.get_rank() == 1:
        assert ours.journal is not None
        ours.journal.add = add  # type: ignore[method-assign]


def _all_trained(rank: int) -> list[dict[str, Any]]:
    runs = [Scored(), Grown(), Observed(at=5), Observed(at=STEPS - 1), Seen()]
    return [
        *(_trained(rank, strategy) for strategy in runs),
        _trained(rank, "magnitude", prepare=_breaks_its_journal),
    ]


@pytest.fixture(scope="module")
def trained(_looks_often: None, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    return together(2, _all_trained, tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize(("run", "message", "update"), [(0, "no score today", 3), (1, "nothing grows", 2)])
def test_an_error_in_score_or_grow_of_one_rank_is_raised_in_all_and_undoes_the_update(
    run: int, message: str, update: int, trained: list[list[dict[str, Any]]]
) -> None:
    other, faulty = (result[run] for result in trained)
    assert faulty["told"] == f"ValueError: {message}"
    assert other["told"] == f"RankError: rank 1 failed: ValueError: {message}"
    for result in (other, faulty):
        assert (result["step"], result["updates"]) == ([1, 4, 7][update - 1], update - 1)
    assert other["sparsity"] == faulty["sparsity"] == (0 if update == 2 else 152 / 268)


def test_an_error_in_observe_of_one_rank_is_raised_in_all_after_the_same_step(
    trained: list[list[dict[str, Any]]],
) -> None:
    other, faulty = (result[2] for result in trained)
    assert faulty["told"] == "ValueError: gradient lost"
    assert other["told"] == "RankError: rank 1 failed: ValueError: gradient lost"
    # Five steps are counted when the sixth is observed; both raise after the seventh, before the update of the eighth.
    assert (other["step"], other["updates"]) == (faulty["step"], faulty["updates"]) == (7, 2)


def test_an_error_in_observe_at_the_last_step_is_raised_in_all(trained: list[list[dict[str, Any]]]) -> None:
    other, faulty = (result[3] for result in trained)
    assert faulty["told"] == "ValueError: gradient lost"
    assert other["told"] == "RankError: rank 1 failed: ValueError: gradient lost"
    assert other["step"] == faulty["step"] == STEPS


def test_an_error_in_a_captured_input_of_one_rank_is_raised_in_all_at_the_update_that_reads_it(
    trained: list[list[dict[str, Any]]],
) -> None:
    other, faulty = (result[4] for result in trained)
    assert faulty["told"] == "ValueError: inputs lost"
    assert other["told"] == "RankError: rank 1 failed: ValueError: inputs lost"
    for result in (other, faulty):
        assert (result["step"], result["updates"]) == (4, 1)


def test_an_error_after_the_masks_are_written_is_raised_in_all_and_the_update_counts_in_all(
    trained: list[list[dict[str, Any]]],
) -> None:
    other, faulty = (result[5] for result in trained)
    assert faulty["told"] == "OSError: journal lost"
    assert other["told"] == "RankError: rank 1 failed: OSError: journal lost"
    for result in (other, faulty):
        assert (result["step"], result["updates"]) == (2, 1)


DIFFERENT: dict[str, tuple[Callable[[int], dict[str, Any]], str]] = {
    "every": (
        lambda rank: {"schedule": {**SCHEDULE, "every": 3 + rank}},
        "schedule.every is 3 on rank 0 and 4 on rank 1",
    ),
    "begin": (
        lambda rank: {"schedule": {**SCHEDULE, "begin": [2, 0.25][rank]}},
        "schedule.begin is 2 on rank 0 and 0.25 on rank 1",
    ),
    "exclude": (
        lambda rank: {"exclude": ["0.*", "2.*"][rank]},
        "exclude is '0.*' on rank 0 and '2.*' on rank 1",
    ),
    "targets": (
        lambda rank: {"targets": [nn.Linear, "*.weight"][rank]},
        "targets is Linear on rank 0 and '*.weight' on rank 1",
    ),
    "strategy": (
        lambda rank: {"strategy": ["magnitude", "rigl"][rank]},
        "strategy is Magnitude on rank 0 and RigL on rank 1",
    ),
    "norm": (
        lambda rank: {"strategy": Magnitude(norm=1 + rank)},
        "strategy.norm is 1 on rank 0 and 2 on rank 1",
    ),
    "sparsity": (lambda rank: {"sparsity": 0.5 + 0.25 * rank}, "sparsity is 0.5 on rank 0 and 0.75 on rank 1"),
    "journal": (lambda rank: {"journal": rank == 0}, "journal is {} on rank 0 and None on rank 1"),
    "steps": (lambda rank: {"total_steps": 12 - rank}, "total_steps is 12 on rank 0 and 11 on rank 1"),
    "one is wrong": (lambda rank: {"sparsity": 0.5 + rank}, "sparsity=1.5"),
    "one fits no target": (lambda rank: {"exclude": [] if rank == 0 else ["*"]}, "exclude is [] on rank 0"),
}


def _different(rank: int) -> dict[str, str]:
    told = {}
    for name, (settings, _) in DIFFERENT.items():
        net = network()
        own = {"sparsity": 0.75, "schedule": SCHEDULE, "total_steps": STEPS, **settings(rank)}
        told[name] = _outcome(lambda net=net, own=own: Pruner(net, adam(net), **own))["told"]
    net = network()  # what is the same everywhere is accepted, whatever its repr holds
    told["same"] = _outcome(
        lambda: Pruner(net, sparsity=0.5, strategy=Magnitude(), targets=[nn.Linear], total_steps=STEPS)
    )["told"]
    return told


def test_settings_that_differ_between_ranks_are_refused_at_the_start_by_name_and_values(tmp_path: Path) -> None:
    first, second = together(2, _different, tmp_path)
    for name, (_, words) in DIFFERENT.items():
        assert words in first[name], name
        assert words in second[name], name
    assert first["one is wrong"].startswith("RankError: rank 1 failed: ValueError: sparsity=1.5")
    assert first["same"] == second["same"] == "no error"


def _train_in_join(wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, ours: Pruner) -> None:
    with Join([wrapped]):
        for step in range(3 + dist.get_rank()):
            x, y = batch(step, *share())
            nn.functional.cross_entropy(wrapped(x), y).backward()
            optimizer.step()
            ours.tick()


def _in_join(rank: int) -> list[str]:
    told = []
    for by_wrapper in (True, False):
        net = network()
        wrapped, optimizer = DistributedDataParallel(net), adam(net)
        ours = pruner(wrapped if by_wrapper else net, optimizer)

        def run(
            ours: Pruner = ours, wrapped: nn.Module = wrapped, optimizer: torch.optim.Optimizer = optimizer
        ) -> None:
            with Join([wrapped]):
                for step in range(3 + rank):
                    x, y = batch(step, rank, 2)
                    nn.functional.cross_entropy(wrapped(x), y).backward()
                    optimizer.step()
                    ours.tick()

        found = _outcome(run, ours)
        assert found["step"] == 0
        told.append(found["told"])
    return told


def test_join_with_uneven_batches_is_refused_in_words_at_the_first_step(tmp_path: Path) -> None:
    for told in together(2, _in_join, tmp_path):
        for words in told:
            assert words.startswith("RuntimeError: join() of DistributedDataParallel, for uneven batches,")
            assert "same number of batches" in words


def _calibrated(rank: int) -> dict[str, Any]:
    net = network()
    ours = pruner(net, adam(net), strategy="wanda")
    inputs = torch.randn(4, 8 + rank, dtype=torch.float64)
    return _outcome(lambda: ours.calibrate([inputs]), ours)


def test_an_error_in_a_calibration_of_one_rank_is_raised_in_all(tmp_path: Path) -> None:
    other, faulty = together(2, _calibrated, tmp_path)
    assert faulty["told"].startswith("RuntimeError: The size of tensor a (8) must match")
    assert other["told"] == f"RankError: rank 1 failed: {faulty['told']}"


@dataclass(frozen=True)
class Unsteady(Magnitude):
    """Scores the first three times it is asked, and fails on one rank when the kept units are looked for."""

    def score(self, target: Any) -> Tensor:
        calls.append(1)
        if _is_failing(len(calls), 9):
            raise ValueError("no second score")
        return super().score(target)


calls: list[int] = []


def _sharded(rank: int) -> dict[str, Any]:
    net = network()
    fully_shard(net, mesh=init_device_mesh("cpu", (2,)))
    ours = Pruner(net, sparsity=0.5, strategy=Unsteady(), schedule="one_shot", total_steps=4)
    masks = ours.masks
    for position in range(len(ours.targets)):  # no memory to note the kept units in, so that they are scored once more
        assert masks.scratch_bits(position) is not None
    masks.scratch_bits = lambda position: None  # type: ignore[method-assign]
    counted = _outcome(lambda: ours.update(0.5), ours)
    return {**counted, "calls": len(calls), "kept": masks.kept == [t.numel for t in ours.targets]}


def test_an_error_while_sharded_masks_are_written_is_raised_in_all_and_undone(tmp_path: Path) -> None:
    other, faulty = together(2, _sharded, tmp_path)
    assert faulty["told"] == "ValueError: no second score"
    assert other["told"] == "RankError: rank 1 failed: ValueError: no second score"
    assert other["kept"]
    assert faulty["kept"]
