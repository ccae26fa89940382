"""DDP as Lightning starts it: ``ddp``, ``ddp_fork`` and ``ddp_spawn``, with the last batch of an epoch smaller."""

import pytest
import torch

from tests.compatibility.runs import SPARSITY, STRATEGIES
from tests.conformance.loop import same
from tests.processes.launching import ends, launched

TARGETS = {"net.0.weight": 192, "net.3.weight": 96}


@pytest.fixture(scope="module")
def ddp(tmp_path_factory):
    return launched(tmp_path_factory, "ddp")


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    return launched(tmp_path_factory, "pools")


def holds(folder, name: str, processes: int) -> None:
    """Assert that a run ended exact, and that its processes held the same masks after every batch."""
    told = ends(folder, name)
    assert len(told) == processes
    for own in told:
        assert own["sparsity"] == SPARSITY
        assert sum(int((own["state"][target] == 0).sum()) for target in TARGETS) == SPARSITY * sum(TARGETS.values())
        assert own["checksums"] == told[0]["checksums"]
        assert same(own["state"], told[0]["state"])
        assert same(own["pruning"], told[0]["pruning"])
    assert len({tuple(sums) for sums in told[0]["checksums"]}) == 7, "updates at steps 5, 8, ... 20, and before"


def resumes(folder, name: str) -> None:
    """Assert that a run which was gone on with ends as the unbroken one did, to the bit, in every process."""
    for unbroken, resumed in zip(ends(folder, name), ends(folder, f"{name}-resumed"), strict=True):
        assert same(resumed["state"], unbroken["state"])
        assert same(resumed["pruning"], unbroken["pruning"])
        assert resumed["checksums"] == unbroken["checksums"][-len(resumed["checksums"]) :]
        assert 0 < len(resumed["checksums"]) < len(unbroken["checksums"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_end_exact_with_equal_masks_at_every_update(strategy, ddp):
    holds(ddp, strategy, processes=2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_run_of_two_processes_is_the_unbroken_run_to_the_bit(strategy, ddp):
    resumes(ddp, strategy)


@pytest.mark.parametrize(("name", "processes"), [("fork2", 2), ("fork3", 3), ("spawn", 2)])
def test_forked_and_spawned_processes_end_exact_with_equal_masks_at_every_update(name, processes, pools):
    holds(pools, name, processes)


@pytest.mark.parametrize("name", ["fork2", "fork3"])
def test_a_resumed_run_of_forked_processes_is_the_unbroken_run_to_the_bit(name, pools):
    resumes(pools, name)


def test_the_same_batches_give_the_same_run_however_the_processes_are_started(ddp, pools):
    by_script, forked, spawned = ends(ddp, "taylor")[0], ends(pools, "fork2")[0], ends(pools, "spawn")[0]
    assert same(forked["state"], by_script["state"])
    assert same(spawned["state"], by_script["state"])


@pytest.mark.parametrize("name", ["fork2", "fork3", "spawn"])
def test_the_process_that_started_workers_holds_the_zeros_and_knows_their_masks(name, pools):
    (main,) = [torch.load(pools / f"{name}-main.pt", weights_only=True)]
    worker = ends(pools, name)[0]
    assert same(main["state"], worker["state"])
    assert same(main["pruning"], worker["pruning"])
    assert main["sparsity"] == main["target_sparsity"] == main["logged"] == SPARSITY
    assert main["layer_sparsity"] == worker["layer_sparsity"]
    assert main["connections"] == TARGETS
    assert {target: mask.shape for target, mask in main["masks"].items()} == {
        target: main["state"][target].shape for target in TARGETS
    }
    for target, mask in main["masks"].items():
        assert not main["state"][target][~mask].any()


def test_what_workers_pruned_stays_pruned_in_the_next_fit_of_the_same_callback(pools):
    first, again = ends(pools, "fork2"), ends(pools, "fork2-again")
    assert len(again) == 2
    for before, after in zip(first, again, strict=True):
        assert after["begun"]["sparsity"] == SPARSITY
        assert same(after["begun"]["masks"], before["pruning"]["masks"])
        assert min(after["sparsities"]) == SPARSITY
        assert len(after["sparsities"]) == 24


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_process_logs_the_sparsity_that_the_masks_have(strategy, ddp):
    for own in ends(ddp, strategy):
        assert own["logged"] == pytest.approx(own["sparsities"])
        assert own["sparsities"][0] == 0.0
        assert own["metrics"]["dynprune/target_sparsity"] == own["metrics"]["dynprune/val_sparsity"] == SPARSITY
        layers = sum(own["metrics"][f"dynprune/layer/{target}"] * n for target, n in TARGETS.items())
        assert layers == pytest.approx(SPARSITY * sum(TARGETS.values()))


def test_logging_brings_no_advice_of_lightning_to_add_up_what_is_the_same_everywhere(ddp):
    assert "dynprune/" not in "".join(line for line in (ddp / "ddp.log").open() if "sync_dist" in line)


def test_a_seed_that_depends_on_the_rank_is_refused_before_the_first_batch_naming_the_values(ddp):
    for rank in (0, 1):
        words = (ddp / f"seed-{rank}.txt").read_text()
        assert words.startswith("0 batches: seed is 0 on rank 0 and 1 on rank 1")


def test_a_guard_judges_the_mean_of_a_metric_that_every_process_logs_for_itself(ddp):
    first, second = ends(ddp, "guard")
    notes = [own["pruning"]["journal"]["notes"] for own in (first, second)]
    assert notes[0] == notes[1]
    assert "val_acc 0.7 is 0.2 short of the dense 0.9, limit 0.1: pruning pauses" in notes[0][0][1]
    assert same(first["pruning"], second["pruning"])
    assert first["sparsity"] == second["sparsity"] < SPARSITY


def test_channels_are_taken_out_of_every_process_at_the_end(ddp):
    first, second = ends(ddp, "slim")
    assert same(first["state"], second["state"])
    assert same(first["pruning"], second["pruning"])
    assert first["state"]["net.0.weight"].shape == (12, 8)
    assert first["state"]["net.1.running_var"].shape == (12,)
    assert first["state"]["net.3.weight"].shape == (4, 12)
    assert first["sparsity"] == second["sparsity"] == 0.5


@pytest.mark.parametrize("how", ["frozen", "joint"])
def test_every_process_fits_the_same_exits_to_the_data_of_all_and_a_resumed_run_too(how, ddp):
    first, second = ends(ddp, f"exits-{how}")
    assert same(first["state"], second["state"])
    assert first["held_out"] == 32, "16 rows of each of two processes"
    figures, others = (
        {name: value for name, value in own["figures"].items() if "adaptive" in name} for own in (first, second)
    )
    assert figures == pytest.approx(others, nan_ok=True)
    assert 0 < figures["dynprune/adaptive/compute_mean"] <= 0.9
    for resumed, unbroken in zip(ends(ddp, f"exits-{how}-resumed"), (first, second), strict=True):
        assert same(resumed["state"], unbroken["state"])
